"""Tensors made in the likeness of another, and padding: exact constants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from equivalence.arithmetic.rounding.operands import Operand, as_number
from equivalence.arithmetic.rounding.tensor import Knowledge, Rounding, RoundingTensor
from equivalence.arithmetic.structure import strided_parts, write

if TYPE_CHECKING:
    from collections.abc import Sequence

aten = torch.ops.aten


def _filled(x: RoundingTensor, shape: Sequence[int], value: Operand, dtype: torch.dtype | None) -> Any:
    target = dtype or x.dtype
    if not target.is_floating_point and target is not x.dtype:
        return torch.full(tuple(shape), value, dtype=target, device=x.device)
    number = x.arithmetic.constant(as_number(value), target)
    parts = number.parts.view(2, *(1,) * len(shape)).expand(2, *shape)
    return x.arithmetic.wrap(parts.clone(memory_format=torch.contiguous_format), number.state, target)


@Rounding.rule(aten.zeros_like.default, aten.empty_like.default)
def _zeros_like(x: RoundingTensor, *, dtype: torch.dtype | None = None, **_options: Any) -> Any:
    return _filled(x, tuple(x.shape), 0, dtype)


@Rounding.rule(aten.ones_like.default)
def _ones_like(x: RoundingTensor, *, dtype: torch.dtype | None = None, **_options: Any) -> Any:
    return _filled(x, tuple(x.shape), 1, dtype)


@Rounding.rule(aten.full_like.default)
def _full_like(x: RoundingTensor, value: Operand, *, dtype: torch.dtype | None = None, **_options: Any) -> Any:
    return _filled(x, tuple(x.shape), value, dtype)


@Rounding.rule(aten.new_zeros.default, aten.new_empty.default)
def _new_zeros(x: RoundingTensor, size: Sequence[int], *, dtype: torch.dtype | None = None, **_options: Any) -> Any:
    return _filled(x, tuple(size), 0, dtype)


@Rounding.rule(aten.new_ones.default)
def _new_ones(x: RoundingTensor, size: Sequence[int], *, dtype: torch.dtype | None = None, **_options: Any) -> Any:
    return _filled(x, tuple(size), 1, dtype)


@Rounding.rule(aten.new_full.default)
def _new_full(
    x: RoundingTensor,
    size: Sequence[int],
    value: Operand,
    *,
    dtype: torch.dtype | None = None,
    **_options: Any,
) -> Any:
    return _filled(x, tuple(size), value, dtype)


@Rounding.rule(aten.new_empty_strided.default, aten.empty_strided.default)
def _new_empty_strided(
    x: RoundingTensor,
    size: Sequence[int],
    stride: Sequence[int],
    *,
    dtype: torch.dtype | None = None,
    **_options: Any,
) -> Any:
    parts = strided_parts(2, size, stride).to(x.device)
    return x.arithmetic.wrap(parts, Knowledge(True), dtype or x.dtype)


@Rounding.rule(aten.fill_.Scalar, aten.fill_.Tensor)
def _fill_(x: RoundingTensor, value: Operand) -> Any:
    write(x, x.arithmetic.constant(as_number(value), x.dtype))
    return x


@Rounding.rule(aten.zero_.default)
def _zero_(x: RoundingTensor) -> Any:
    write(x, x.arithmetic.constant(0.0))
    return x


@Rounding.rule(aten.constant_pad_nd.default)
def _constant_pad_nd(x: RoundingTensor, pad: Sequence[int], value: Operand = 0) -> Any:
    filling = x.arithmetic.constant(as_number(value), x.dtype)
    parts = [
        torch.constant_pad_nd(part, list(pad), float(fill)) for part, fill in zip(x.parts, filling.parts, strict=True)
    ]
    return x.arithmetic.wrap(torch.stack(parts), x.arithmetic.joined([x, filling]), x.dtype)
