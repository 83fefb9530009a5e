"""Convolutions of any geometry and their two adjoints, by torch's own float64 kernels (see
`bilinear`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from equivalence.arithmetic.rounding.bilinear import bilinear
from equivalence.arithmetic.rounding.elementary import add
from equivalence.arithmetic.rounding.operands import Operand, context_of
from equivalence.arithmetic.rounding.reduction import total
from equivalence.arithmetic.rounding.tensor import Rounding

if TYPE_CHECKING:
    from collections.abc import Sequence

aten = torch.ops.aten


def _terms(w: Tensor, groups: int, transposed: bool) -> int:
    """Products per output: a slice of the kernel for every input channel of the group."""
    channels = w.shape[0] // groups if transposed else w.shape[1]
    return channels * math.prod(w.shape[2:])


@Rounding.rule(aten.convolution.default)
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
    """A convolution, transposed or not, and its bias."""
    context = context_of(x, w, bias)
    x, w = context.constant(x), context.constant(w)

    def op(a: Tensor, b: Tensor) -> Tensor:
        return torch.convolution(a, b, None, stride, padding, dilation, transposed, output_padding, groups)

    result = bilinear(op, x, w, _terms(w, groups, transposed), x.dtype)
    if bias is None:
        return result
    return add(result, context.constant(bias).view(-1, *(1,) * (w.dim() - 2)))


@Rounding.rule(aten.convolution_backward.default)
def _convolution_backward(
    grad: Operand,
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
    context = context_of(grad, x, w)
    grad, x, w = (context.constant(t) for t in (grad, x, w))
    geometry = (None, stride, padding, dilation, transposed, output_padding, groups)

    def to_input(a: Tensor, b: Tensor) -> Tensor:
        shape = x.parts[0]  # a gradient is linear in the other two: only the shape matters
        return aten.convolution_backward(a, shape, b, *geometry, [True, False, False])[0]  # type: ignore[no-any-return]

    def to_weight(a: Tensor, b: Tensor) -> Tensor:
        shape = w.parts[0]
        return aten.convolution_backward(a, b, shape, *geometry, [False, True, False])[1]  # type: ignore[no-any-return]

    results: list[Any] = [None, None, None]
    if wanted[0]:
        results[0] = bilinear(to_input, grad, w, _terms(w, groups, not transposed), x.dtype)
    if wanted[1]:
        pixels = math.prod((grad if not transposed else x).shape[2:])
        results[1] = bilinear(to_weight, grad, x, max(1, grad.shape[0] * pixels), w.dtype)
    if wanted[2]:
        results[2] = total(grad, [d for d in range(grad.dim()) if d != 1])
    return tuple(results)
