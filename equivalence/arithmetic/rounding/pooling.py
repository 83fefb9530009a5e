"""Pooling: averages are linear, maxima 1-Lipschitz, with the bound of the widest member of each
window.

The gradient of a maximum goes to its member. Where rounding leaves open which one that is, every
member that may be greatest may receive it or not.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from equivalence.arithmetic.rounding.operands import context_of
from equivalence.arithmetic.rounding.precision import SAFE
from equivalence.arithmetic.rounding.reduction import linear
from equivalence.arithmetic.rounding.tensor import Rounding, RoundingTensor
from equivalence.arithmetic.stacked import unsupported
from equivalence.arithmetic.unavailable import Unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

aten = torch.ops.aten


def _size(kernel: Any, spatial: int) -> int:
    return int(math.prod(kernel) if len(kernel) == spatial else kernel[0] ** spatial)


def _avg_pool(spatial: int) -> None:
    op = getattr(aten, f"avg_pool{spatial}d")
    weight = 4.0  # divisors may be applied as reciprocals, and per axis

    def forward(x: RoundingTensor, kernel: Any, *options: Any, **more: Any) -> Any:
        def pool(t: Tensor) -> Any:
            return op(t, kernel, *options, **more)

        return linear(pool, x, _size(kernel, spatial), x.dtype, averages=True, factor=weight)

    def backward(grad: RoundingTensor, x: Tensor, kernel: Any, *options: Any) -> Any:
        def pool(t: Tensor) -> Any:
            return back(t, t.new_empty(x.shape), kernel, *options)

        return linear(pool, grad, _size(kernel, spatial), x.dtype, averages=True, factor=weight)

    Rounding.rule(op.default)(forward)
    if spatial > 1:
        back = getattr(aten, f"avg_pool{spatial}d_backward")
        Rounding.rule(back.default)(backward)


def _adaptive_avg_pool(spatial: int) -> None:
    op = getattr(aten, f"_adaptive_avg_pool{spatial}d")
    back = getattr(aten, f"_adaptive_avg_pool{spatial}d_backward")

    def forward(x: RoundingTensor, output: Any) -> Any:
        terms = math.prod(n // m + 2 for n, m in zip(x.shape[-spatial:], output, strict=True))
        return linear(lambda t: op(t, output), x, terms, x.dtype, averages=True)

    def backward(grad: RoundingTensor, x: Tensor) -> Any:
        sizes = zip(x.shape[-spatial:], grad.shape[-spatial:], strict=True)
        terms = math.prod(m // n + 2 for n, m in sizes)
        return linear(lambda t: back(t, t.new_empty(x.shape)), grad, terms, x.dtype, averages=True)

    Rounding.rule(op.default)(forward)
    Rounding.rule(back.default)(backward)


def _max_pool(spatial: int) -> None:
    op = getattr(aten, f"max_pool{spatial}d_with_indices")

    def forward(x: RoundingTensor, *geometry: Any) -> Any:
        value, bound = x.parts
        result, position = op(value, *geometry)
        spread = op(bound, *geometry)[0]
        # torch.max_pool skips no NaN, so a window with an unknown member has an unknown bound
        values = x.arithmetic.result(result, spread, x.dtype)
        return values, Unavailable.make(position.shape, "the position of a maximum")

    def backward(grad: Any, x: Any, *geometry_and_indices: Any) -> Any:
        geometry = geometry_and_indices[:-1]
        context = context_of(grad, x)
        grad, x = context.constant(grad), context.constant(x)
        value, bound = x.parts
        position = op(value, *geometry)[1]

        def routed(t: Tensor) -> Any:
            return back(t, value, *geometry, position)

        cells = _size(geometry[0], spatial)
        exact = linear(routed, grad, cells, x.dtype)
        extra = _misrouted(grad, value, bound, geometry, spatial)
        if extra is not None:
            exact.parts[1].add_(extra).mul_(SAFE)
        return exact

    Rounding.rule(op.default)(forward)
    back = getattr(aten, f"max_pool{spatial}d_with_indices_backward")
    Rounding.rule(back.default)(backward)


def _misrouted(
    grad: RoundingTensor, value: Tensor, bound: Tensor, geometry: Sequence[Any], spatial: int
) -> Tensor | None:
    """For each cell, the magnitude of gradients that may or may not be meant for it."""
    kernel, stride, padding, dilation, _ceil = (*geometry, *_defaults(geometry))[:5]
    sides = [_per_axis(v, spatial) for v in (kernel, stride or kernel, padding, dilation)]
    lead, size = value.shape[: value.dim() - spatial], value.shape[-spatial:]
    output = grad.shape[-spatial:]
    # windows by their flat cells, a cell outside being the extra one at the end
    cells = math.prod(size)
    index = torch.zeros(1, dtype=torch.int64)
    inside = torch.ones(1, dtype=torch.bool)
    for n, m, k, s, p, d in zip(size, output, *sides, strict=True):
        along = (torch.arange(m) * s - p).view(-1, 1) + (torch.arange(k) * d).view(1, -1)
        valid = (along >= 0) & (along < n)
        shape_w, shape_k = index.shape[:1], index.shape[1:] or (1,)
        old = index.view(*shape_w, 1, *shape_k, 1)
        index = (old * n + along.view(1, m, 1, k)).reshape(shape_w[0] * m, -1)
        ok = inside.view(*shape_w, 1, *(inside.shape[1:] or (1,)), 1) & valid.view(1, m, 1, k)
        inside = ok.reshape(shape_w[0] * m, -1)
    index = torch.where(inside, index, cells).to(value.device)
    outside = value.new_full((*lead, 1), -torch.inf)
    most = torch.cat((torch.add(value, bound, alpha=2).flatten(-spatial), outside), -1)[..., index]
    least = torch.cat((torch.sub(value, bound, alpha=2).flatten(-spatial), outside), -1)[..., index]
    contender = ~(most < least.amax(-1, keepdim=True)) & (index < cells)
    open_ = contender & (contender.sum(-1, keepdim=True) > 1)
    if not bool(open_.any()):
        return None
    reach = grad.reach.flatten(-spatial).unsqueeze(-1)
    passing = torch.where(open_, reach, 0.0)
    extra = value.new_zeros((*lead, cells + 1))
    flat = index.flatten().expand(*lead, -1)
    extra.scatter_add_(-1, flat, passing.flatten(-2))
    return extra[..., :cells].reshape(value.shape) * (1 + 2.0**-40)


def _defaults(geometry: Sequence[Any]) -> tuple[Any, ...]:
    return (None, [], 0, 1, False)[len(geometry) :]


def _per_axis(values: Any, spatial: int) -> tuple[int, ...]:
    each: tuple[int, ...] = (values,) if isinstance(values, int) else tuple(values)
    return each * spatial if len(each) == 1 else each


def _adaptive_max_pool(spatial: int) -> None:
    """Windows of equal size are those of an ordinary pool; others overlap and have no rule."""

    def geometry(x: Tensor, output: Sequence[int]) -> tuple[Any, ...]:
        sizes = list(zip(x.shape[-spatial:], output, strict=True))
        if any(n % m for n, m in sizes):
            raise unsupported(f"aten.adaptive_max_pool{spatial}d", "its windows differ in size")
        kernel = [n // m for n, m in sizes]
        return kernel, kernel, [0] * spatial, [1] * spatial, False

    pool = getattr(aten, f"max_pool{spatial}d_with_indices").default
    back = getattr(aten, f"max_pool{spatial}d_with_indices_backward").default

    def forward(x: RoundingTensor, output: Any) -> Any:
        return pool(x, *geometry(x, output))

    def backward(grad: Any, x: Any, indices: Any) -> Any:
        return back(grad, x, *geometry(x, grad.shape[-spatial:]), indices)

    Rounding.rule(getattr(aten, f"adaptive_max_pool{spatial}d").default)(forward)
    Rounding.rule(getattr(aten, f"adaptive_max_pool{spatial}d_backward").default)(backward)


for _spatial in (1, 2, 3):
    _avg_pool(_spatial)
for _spatial in (2, 3):
    _adaptive_avg_pool(_spatial)
    _max_pool(_spatial)
    _adaptive_max_pool(_spatial)
