"""Average pooling of every kind is one linear map per spatial axis, followed by a division by counts.

The map is a 0/1 matrix: which cells belong to which window. The divisor is a product of one number per axis (the
window's cells, padding counted or not), each inverted exactly. The gradient is the transposed map.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from equivalence.arithmetic.field.ring import div
from equivalence.arithmetic.field.tensor import Field, FieldTensor
from equivalence.arithmetic.field.windows import per_dimension

if TYPE_CHECKING:
    from collections.abc import Sequence

aten = torch.ops.aten


class Axis(NamedTuple):
    """Windows along one axis: half-open ranges of cells, and what each is divided by."""

    cells: int
    ranges: tuple[tuple[int, int], ...]
    divisors: tuple[int, ...]


def pooled_length(cells: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    """Torch's rule: in ceil mode a window may overhang the end, but must not start beyond it."""
    span = cells + 2 * padding - dilation * (kernel - 1) - 1
    length = (span + (stride - 1 if ceil_mode else 0)) // stride + 1
    if ceil_mode and (length - 1) * stride >= cells + padding:
        length -= 1
    return length


@lru_cache(maxsize=256)
def sliding(cells: int, kernel: int, stride: int, padding: int, ceil_mode: bool, counted: bool) -> Axis:
    ranges, divisors = [], []
    for i in range(pooled_length(cells, kernel, stride, padding, 1, ceil_mode)):
        start = i * stride - padding
        end = min(start + kernel, cells + padding)
        inside = max(start, 0), min(end, cells)
        ranges.append(inside)
        divisors.append(end - start if counted else inside[1] - inside[0])
    return Axis(cells, tuple(ranges), tuple(divisors))


@lru_cache(maxsize=256)
def adaptive(cells: int, outputs: int) -> Axis:
    """Window i covers [floor(i n / m), ceil((i + 1) n / m))."""
    ranges = tuple((i * cells // outputs, -(-(i + 1) * cells // outputs)) for i in range(outputs))
    return Axis(cells, ranges, tuple(b - a for a, b in ranges))


def _matrix(field: Field, axis: Axis, divided: bool) -> Tensor:
    """Residues (K, outputs, cells)."""
    result = torch.zeros(field.count, len(axis.ranges), axis.cells, dtype=torch.float64)
    for i, ((start, end), divisor) in enumerate(zip(axis.ranges, axis.divisors, strict=True)):
        weight, _ = field.inverse(divisor, 1) if divided else field.scalar(1, 1)
        result[:, i, start:end] = weight
    return result


def apply_axes(x: FieldTensor, axes: Sequence[Axis], *, divided: bool, transposed: bool) -> Any:
    """The linear map along the last axes of x, one after the other."""
    field = x.arithmetic
    parts, bound = x.parts, x.state
    for back, axis in enumerate(reversed(axes), 1):
        matrix = _matrix(field, axis, divided)
        if not transposed:
            matrix = matrix.transpose(1, 2)
        moved = parts.movedim(-back, -1)
        result = field.modulus.bmm(moved.reshape(field.count, -1, moved.shape[-1]), matrix)
        parts = result.view(*moved.shape[:-1], -1).movedim(-1, -back)
        bound = bound.summed(max(1, matrix.shape[1]))
        if divided:
            for divisor in set(axis.divisors):
                bound = bound.union(bound * field.inverse(divisor, 0)[1])
    return field.wrap(parts.contiguous(), bound, x.dtype)


def _sliding_axes(
    size: Sequence[int], kernel: Any, stride: Any, padding: Any, ceil_mode: bool, counted: bool
) -> list[Axis]:
    n = len(size)
    kernel = per_dimension(kernel, n)
    stride = per_dimension(stride, n) if stride else kernel
    padding = per_dimension(padding, n)
    return [sliding(c, k, s, p, ceil_mode, counted) for c, k, s, p in zip(size, kernel, stride, padding, strict=True)]


def _avg_pool(spatial: int) -> None:
    def forward(
        x: FieldTensor,
        kernel: Any,
        stride: Any = (),
        padding: Any = 0,
        ceil_mode: bool = False,
        counted: bool = True,
        divisor: int | None = None,
    ) -> Any:
        axes = _sliding_axes(x.shape[-spatial:], kernel, stride, padding, ceil_mode, counted)
        result = apply_axes(x, axes, divided=divisor is None, transposed=False)
        return result if divisor is None else div(result, divisor)

    def backward(
        grad: FieldTensor,
        x: Any,
        kernel: Any,
        stride: Any,
        padding: Any,
        ceil_mode: bool,
        counted: bool,
        divisor: int | None,
    ) -> Any:
        axes = _sliding_axes(x.shape[-spatial:], kernel, stride, padding, ceil_mode, counted)
        result = apply_axes(grad, axes, divided=divisor is None, transposed=True)
        return result if divisor is None else div(result, divisor)

    name = f"avg_pool{spatial}d"
    Field.rule(getattr(aten, name).default)(forward)
    if spatial > 1:
        Field.rule(getattr(aten, f"{name}_backward").default)(backward)


def _adaptive_avg_pool(spatial: int) -> None:
    def forward(x: FieldTensor, output: Any) -> Any:
        axes = [adaptive(n, m) for n, m in zip(x.shape[-spatial:], per_dimension(output, spatial), strict=True)]
        return apply_axes(x, axes, divided=True, transposed=False)

    def backward(grad: FieldTensor, x: Any) -> Any:
        sizes = zip(x.shape[-spatial:], grad.shape[-spatial:], strict=True)
        return apply_axes(grad, [adaptive(n, m) for n, m in sizes], divided=True, transposed=True)

    name = f"_adaptive_avg_pool{spatial}d"
    Field.rule(getattr(aten, name).default)(forward)
    Field.rule(getattr(aten, f"{name}_backward").default)(backward)


for _spatial in (1, 2, 3):
    _avg_pool(_spatial)
for _spatial in (2, 3):
    _adaptive_avg_pool(_spatial)
