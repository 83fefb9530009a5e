"""Convolutions as windows and one batched matrix product over primes and groups, and their two adjoints.

Written once for 1 to 3 dimensions: with X the windows of the input, W the weights and Y the output, Y = W X,
the input's gradient adds back Wᵀ Y, the weight's gradient is Y Xᵀ. A transposed convolution is the second of these.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from equivalence.arithmetic.field.modulus import PRODUCT, PRODUCT_TERMS, RESIDUE, Modulus
from equivalence.arithmetic.field.operands import Operand, field_of
from equivalence.arithmetic.field.ring import add, total
from equivalence.arithmetic.field.tensor import Field, FieldTensor
from equivalence.arithmetic.field.windows import Windows, per_dimension

if TYPE_CHECKING:
    from collections.abc import Sequence

    from equivalence.arithmetic.field.draw import Deferred

aten = torch.ops.aten
_MANY = 1 << 18  # weights


def _columns(x: Tensor, windows: Windows, groups: int) -> Tensor:
    """(K, N, C, *size) as (K·G, C/G·kernel, N·output)."""
    count, batch, channels = x.shape[:3]
    if windows.trivial and batch == 1:
        return x.reshape(count * groups, channels // groups, -1)
    view = x[(..., *(None,) * len(windows.size), *(slice(None),) * len(windows.size))] if windows.trivial else None
    view = windows.view(x) if view is None else view
    return view.movedim(1, 2 + len(windows.size)).reshape(count * groups, channels // groups * windows.members, -1)


def _images(y: Tensor, count: int, batch: int, shape: Sequence[int]) -> Tensor:
    """(K·G, C/G, N·output) as contiguous (K, N, C, *output)."""
    if batch == 1:
        return y.view(count, 1, -1, *shape)
    return y.view(count, -1, batch, math.prod(shape)).transpose(1, 2).reshape(count, batch, -1, *shape)


def _rows(y: Tensor, groups: int) -> Tensor:
    """(K, N, C, *output) as (K·G, C/G, N·output), the inverse of `_images`."""
    count, channels = y.shape[0], y.shape[2]
    return y.flatten(3).transpose(1, 2).reshape(count * groups, channels // groups, -1)


def _forward(modulus: Modulus, x: Tensor, w: Tensor, windows: Windows, groups: int) -> tuple[Tensor, float]:
    """Not reduced, and how large."""
    weights = w.reshape(modulus.count * groups, w.shape[1] // groups, -1)
    y, size = modulus.bmm_raw(weights, _columns(x, windows, groups))
    return _images(y, modulus.count, x.shape[1], windows.output), size


def _forward_deferred(modulus: Modulus, x: Tensor, w: Deferred, windows: Windows, groups: int) -> tuple[Tensor, float]:
    """The same with weights that are not kept; many are made prime by prime."""
    outputs, inputs, *kernel = w.shape
    terms = inputs * math.prod(kernel)
    if terms > PRODUCT_TERMS or outputs * terms < _MANY:
        return _forward(modulus, x, w.residues(), windows, groups)
    columns = _columns(x, windows, groups)
    columns = columns.reshape(modulus.count, groups, *columns.shape[1:])
    y = x.new_empty(modulus.count, groups, outputs // groups, columns.shape[-1])
    for number, (own, result) in enumerate(zip(columns, y, strict=True)):
        torch.bmm(w.modulo(number).reshape(groups, outputs // groups, terms), own, out=result)
    return _images(y.flatten(0, 1), modulus.count, x.shape[1], windows.output), terms * PRODUCT


def _input_gradient(modulus: Modulus, y: Tensor, w: Tensor, windows: Windows, groups: int) -> tuple[Tensor, float]:
    """Not reduced, and how large."""
    count, batch = y.shape[:2]
    weights = w.reshape(count * groups, w.shape[1] // groups, -1)
    columns = modulus.bmm(weights.transpose(1, 2), _rows(y, groups))
    if windows.trivial:
        return _images(columns, count, batch, windows.size), RESIDUE
    columns = columns.view(count, groups * w.shape[2], *windows.kernel, batch, *y.shape[3:])
    images = windows.add_back(columns.movedim(2 + len(windows.size), 1))
    return images.contiguous(), windows.members * RESIDUE


def _weight_gradient(
    modulus: Modulus, y: Tensor, x: Tensor, windows: Windows, groups: int, shape: Sequence[int]
) -> Tensor:
    columns = _columns(x, windows, groups)
    return modulus.bmm(_rows(y, groups), columns.transpose(1, 2)).view(modulus.count, *shape)


def _geometry(size: Sequence[int], kernel: Sequence[int], stride: Any, padding: Any, dilation: Any) -> Windows:
    spatial = len(kernel)
    return Windows(
        tuple(size),
        tuple(kernel),
        per_dimension(stride, spatial),
        per_dimension(padding, spatial),
        per_dimension(dilation, spatial),
    )


def _transposed_size(
    x: Tensor, kernel: Sequence[int], stride: Any, padding: Any, dilation: Any, output_padding: Any
) -> tuple[int, ...]:
    spatial = len(kernel)
    each = [per_dimension(v, spatial) for v in (stride, padding, dilation, output_padding)]
    return tuple(
        (n - 1) * s - 2 * p + d * (k - 1) + o + 1 for n, k, s, p, d, o in zip(x.shape[3:], kernel, *each, strict=True)
    )


@Field.rule(aten.convolution.default)
def convolution(
    x: Operand,
    w: Operand,
    bias: Operand,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Any:
    field = x.arithmetic if type(x) is FieldTensor else field_of(x, w, bias)
    x, w = field.constant(x), field.constant(w)
    kernel = w.shape[2:]
    spatial = len(kernel)
    if transposed:
        size = _transposed_size(x.parts, kernel, stride, padding, dilation, output_padding)
        windows = _geometry(size, kernel, stride, padding, dilation)
        parts, raw = _input_gradient(field.modulus, x.parts, w.parts, windows, groups)
        terms = w.shape[0] // groups * windows.members
    else:
        windows = _geometry(x.parts.shape[3:], kernel, stride, padding, dilation)
        product = _forward if w.deferred is None else _forward_deferred
        parts, raw = product(field.modulus, x.parts, w.parts if w.deferred is None else w.deferred, windows, groups)
        terms = math.prod(w.shape[1:])
    result = field.wrap(parts, (x.state * w.state).summed(terms), x.dtype, raw)
    if bias is None:
        return result
    return add(result, field.constant(bias).view(-1, *(1,) * spatial))


@Field.rule(aten.convolution_backward.default)
def convolution_backward(
    y: Operand,
    x: Operand,
    w: Operand,
    bias_sizes: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
    wanted: Sequence[bool],
) -> Any:
    field = field_of(y, x, w)
    y, x, w = (field.constant(t) for t in (y, x, w))
    modulus = field.modulus
    # In a transposed convolution input and output change places.
    image, rows = (y, x) if transposed else (x, y)
    windows = _geometry(image.parts.shape[3:], w.shape[2:], stride, padding, dilation)
    to_input = to_weight = to_bias = None
    if wanted[0]:
        backward = _forward if transposed else _input_gradient
        parts, raw = backward(modulus, y.parts, w.parts, windows, groups)
        to_input = field.wrap(parts, (y.state * w.state).summed(w.numel()), x.dtype, raw)
    if wanted[1]:
        parts = _weight_gradient(modulus, rows.parts, image.parts, windows, groups, w.shape)
        to_weight = field.wrap(parts, (x.state * y.state).summed(rows.numel()), w.dtype)
    if wanted[2]:
        to_bias = total(y, [d for d in range(y.dim()) if d != 1])
    return to_input, to_weight, to_bias
