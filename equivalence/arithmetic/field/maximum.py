"""Maxima over windows: a sum of the members, each times a random function of the window's multiset and itself.

The actual maximum has this form, with the gate "1 / multiplicity if a is greatest in W, else 0", so whatever follows
for all functions gate(W, a) holds for it. Equal windows give equal maxima, in whatever order and padding their
members come, since W enters as the sum of a random function over the members; padded cells are no members; a window
of one member has gate 1. The gradient goes to the members by the same gates.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from equivalence.arithmetic.field.average import pooled_length
from equivalence.arithmetic.field.bound import VARIABLE, Bound
from equivalence.arithmetic.field.ring import neg
from equivalence.arithmetic.field.tensor import Field, FieldTensor
from equivalence.arithmetic.field.windows import Windows, per_dimension
from equivalence.arithmetic.stacked import unsupported
from equivalence.arithmetic.unavailable import Unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

aten = torch.ops.aten


def _gates(x: FieldTensor, members: Tensor, tags: Tensor, valid: Tensor) -> Tensor:
    """Gates (K, …, window, …) for windows along axis 1 of `members` (K, W, rest); `valid` (W, rest) as 0 or 1."""
    field = x.arithmetic
    multiset = field.modulus.reduce_((tags * valid).sum(1, keepdim=True)).expand_as(members)
    sums = VARIABLE.summed(members.shape[1])
    gates, _ = field.random("max", (multiset, sums), (members, x.state))
    single = valid.sum(0, keepdim=True) == 1
    return torch.where(single, 1.0, gates) * valid


def _tags(x: FieldTensor) -> Tensor:
    return x.arithmetic.random("member", (x.parts, x.state))[0]


def _value(x: FieldTensor, members: Tensor, gates: Tensor) -> tuple[Tensor, Bound]:
    modulus = x.arithmetic.modulus
    parts = modulus.sum(modulus.mul(members, gates), [1], False)
    return parts, (x.state * VARIABLE).summed(members.shape[1])


def _pool_geometry(x: Any, spatial: int, kernel: Any, stride: Any, padding: Any, dilation: Any) -> Windows:
    kernel = per_dimension(kernel, spatial)
    return Windows(
        tuple(x.shape[-spatial:]),
        kernel,
        per_dimension(stride, spatial) if stride else kernel,
        per_dimension(padding, spatial),
        per_dimension(dilation, spatial),
    )


def _output(w: Windows, ceil_mode: bool) -> tuple[int, ...]:
    return tuple(
        pooled_length(n, k, s, p, d, ceil_mode)
        for n, k, s, p, d in zip(w.size, w.kernel, w.stride, w.padding, w.dilation, strict=True)
    )


def _windows(t: Tensor, w: Windows, output: Sequence[int]) -> Tensor:
    """(K, *lead, *size) as (K, W, lead · output)."""
    spatial, lead = len(w.size), t.dim() - len(w.size)
    view = w.view(t, output)
    order = [0, *range(lead, lead + spatial), *range(1, lead), *range(lead + spatial, view.dim())]
    return view.permute(order).reshape(t.shape[0], w.members, -1)


def _pool(x: FieldTensor, w: Windows, ceil_mode: bool) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    output = _output(w, ceil_mode)
    lead = x.parts.shape[1 : x.parts.dim() - len(w.size)]
    inside = torch.ones(1, *lead, *w.size, dtype=torch.float64)
    valid = _windows(inside, w, output)[0]
    members = _windows(x.parts, w, output)
    gates = _gates(x, members, _windows(_tags(x), w, output), valid)
    return members, gates, output


def _max_pool(spatial: int) -> None:
    def forward(
        x: FieldTensor,
        kernel: Any,
        stride: Any = (),
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
    ) -> Any:
        w = _pool_geometry(x, spatial, kernel, stride, padding, dilation)
        members, gates, output = _pool(x, w, ceil_mode)
        parts, bound = _value(x, members, gates)
        shape = (*x.shape[: x.dim() - spatial], *output)
        values = x.arithmetic.wrap(parts.view(-1, *shape), bound, x.dtype)
        return values, Unavailable.make(shape, "the position of a maximum")

    def backward(
        grad: FieldTensor,
        x: FieldTensor,
        kernel: Any,
        stride: Any,
        padding: Any,
        dilation: Any,
        ceil_mode: bool,
        _indices: Any,
    ) -> Any:
        field = x.arithmetic
        w = _pool_geometry(x, spatial, kernel, stride, padding, dilation)
        _, gates, output = _pool(x, w, ceil_mode)
        routed = field.modulus.mul(gates, grad.parts.reshape(field.count, 1, -1))
        lead = x.parts.dim() - spatial
        routed = routed.view(field.count, *w.kernel, *x.parts.shape[1:lead], *output)
        inner, outer = range(1, 1 + spatial), range(1 + spatial, lead + spatial)
        routed = routed.permute(0, *outer, *inner, *range(lead + spatial, routed.dim()))
        parts = field.modulus.reduce_(w.add_back(routed).contiguous())
        return field.wrap(parts, (grad.state * VARIABLE).summed(w.members), x.dtype)

    name = f"max_pool{spatial}d_with_indices"
    Field.rule(getattr(aten, name).default)(forward)
    Field.rule(getattr(aten, f"{name}_backward").default)(backward)


for _spatial in (2, 3):
    _max_pool(_spatial)


def _over(x: FieldTensor, dims: Sequence[int], keepdim: bool) -> Any:
    """The maximum over whole axes."""
    field, rank = x.arithmetic, x.dim()
    dims = [d % rank for d in dims] if len(dims) else list(range(rank))
    kept = [d for d in range(rank) if d not in dims]
    order = [0, *(d + 1 for d in dims), *(d + 1 for d in kept)]
    size = math.prod(x.shape[d] for d in dims)

    def flat(t: Tensor) -> Tensor:
        return t.permute(order).reshape(field.count, size, -1)

    members = flat(x.parts)
    valid = torch.ones(members.shape[1:], dtype=torch.float64)
    parts, bound = _value(x, members, _gates(x, members, flat(_tags(x)), valid))
    shape = [1 if d in dims else x.shape[d] for d in range(rank) if keepdim or d not in dims]
    return field.wrap(parts.view(field.count, *shape), bound, x.dtype)


@Field.rule(aten.amax.default)
def amax(x: FieldTensor, dim: Sequence[int] = (), keepdim: bool = False) -> Any:
    return _over(x, dim, keepdim)


@Field.rule(aten.amin.default)
def amin(x: FieldTensor, dim: Sequence[int] = (), keepdim: bool = False) -> Any:
    return neg(_over(neg(x), dim, keepdim))


@Field.rule(aten.max.default)
def max_all(x: FieldTensor) -> Any:
    return _over(x, (), False)


@Field.rule(aten.min.default)
def min_all(x: FieldTensor) -> Any:
    return amin(x)


@Field.rule(aten.max.dim)
def max_dim(x: FieldTensor, dim: int, keepdim: bool = False) -> Any:
    values = _over(x, (dim,), keepdim)
    return values, Unavailable.make(values.shape, "the position of a maximum")


@Field.rule(aten.min.dim)
def min_dim(x: FieldTensor, dim: int, keepdim: bool = False) -> Any:
    values = amin(x, (dim,), keepdim)
    return values, Unavailable.make(values.shape, "the position of a minimum")


@Field.rule(aten.value_selecting_reduction_backward.default)
def selected_backward(*_args: Any) -> Any:
    raise unsupported("aten.value_selecting_reduction_backward", "the position of a maximum is not known")
