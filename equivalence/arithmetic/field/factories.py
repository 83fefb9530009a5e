"""Tensors made in the likeness of another: constants of the field if floating, plain tensors otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from equivalence.arithmetic.field.bound import Bound
from equivalence.arithmetic.field.origin import ZERO
from equivalence.arithmetic.field.tensor import Field, FieldTensor
from equivalence.arithmetic.structure import strided_parts, write

if TYPE_CHECKING:
    from collections.abc import Sequence

    from equivalence.arithmetic.field.operands import Operand

aten = torch.ops.aten


def _filled(x: FieldTensor, shape: Sequence[int], value: Operand, dtype: torch.dtype | None) -> Any:
    field = x.arithmetic
    target = dtype or x.dtype
    if not target.is_floating_point and target is not x.dtype:
        return torch.full(tuple(shape), value, dtype=target)
    residues, bound = field.scalar(value, len(shape))
    parts = residues.expand(field.count, *shape).contiguous()
    if shape == ():
        parts = parts.clone()
    result = field.wrap(parts, bound.copy(), target)
    result.origin = ZERO if value == 0 else None
    return result


@Field.rule(aten.zeros_like.default, aten.empty_like.default)
def zeros_like(x: FieldTensor, *, dtype: torch.dtype | None = None, **_options: Any) -> Any:
    return _filled(x, tuple(x.shape), 0, dtype)


@Field.rule(aten.ones_like.default)
def ones_like(x: FieldTensor, *, dtype: torch.dtype | None = None, **_options: Any) -> Any:
    return _filled(x, tuple(x.shape), 1, dtype)


@Field.rule(aten.full_like.default)
def full_like(x: FieldTensor, value: Operand, *, dtype: torch.dtype | None = None, **_options: Any) -> Any:
    return _filled(x, tuple(x.shape), value, dtype)


@Field.rule(aten.new_zeros.default, aten.new_empty.default)
def new_zeros(x: FieldTensor, size: Sequence[int], *, dtype: torch.dtype | None = None, **_options: Any) -> Any:
    return _filled(x, tuple(size), 0, dtype)


@Field.rule(aten.new_ones.default)
def new_ones(x: FieldTensor, size: Sequence[int], *, dtype: torch.dtype | None = None, **_options: Any) -> Any:
    return _filled(x, tuple(size), 1, dtype)


@Field.rule(aten.new_full.default)
def new_full(
    x: FieldTensor,
    size: Sequence[int],
    value: Operand,
    *,
    dtype: torch.dtype | None = None,
    **_options: Any,
) -> Any:
    return _filled(x, tuple(size), value, dtype)


@Field.rule(aten.new_empty_strided.default)
def new_empty_strided(
    x: FieldTensor,
    size: Sequence[int],
    stride: Sequence[int],
    *,
    dtype: torch.dtype | None = None,
    **_options: Any,
) -> Any:
    return x.arithmetic.wrap(strided_parts(x.arithmetic.count, size, stride), Bound(), dtype or x.dtype)


@Field.rule(aten.fill_.Scalar, aten.fill_.Tensor)
def fill_(x: FieldTensor, value: Operand) -> Any:
    write(x, x.arithmetic.constant(value))
    return x


@Field.rule(aten.zero_.default)
def zero_(x: FieldTensor) -> Any:
    write(x, x.arithmetic.constant(0))
    return x


@Field.rule(aten.constant_pad_nd.default)
def constant_pad_nd(x: FieldTensor, pad: Sequence[int], value: Operand = 0) -> Any:
    parts = torch.nn.functional.pad(x.parts, list(pad))
    residues, bound = x.arithmetic.scalar(value, x.dim())
    if value != 0:
        inside = torch.nn.functional.pad(torch.ones(x.parts.shape[1:], dtype=torch.bool), list(pad))
        parts = torch.where(inside, parts, residues)
    return x.arithmetic.wrap(parts, x.state.union(bound), x.dtype)
