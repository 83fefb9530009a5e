"""Two operands of an elementwise operation, brought to one run, one dtype and shapes that broadcast."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from equivalence.arithmetic.field.tensor import Field, FieldTensor

if TYPE_CHECKING:
    from equivalence.arithmetic.field.bound import Bound

Operand = Any  # a FieldTensor, a plain tensor or a Python number


class Pair(NamedTuple):
    field: Field
    a: Tensor
    b: Tensor
    a_bound: Bound
    b_bound: Bound
    dtype: torch.dtype


def is_number(x: Operand) -> bool:
    return isinstance(x, int | float | Fraction)


def as_number(x: Operand) -> Operand:
    """Plain tensors of one element, of any dimensions up to those of their partner, act as numbers."""
    if isinstance(x, Tensor) and not isinstance(x, FieldTensor) and x.dim() == 0:
        return x.item()
    return x


def field_of(*xs: Operand) -> Field:
    return next(x.arithmetic for x in xs if type(x) is FieldTensor)


def floating(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype.is_floating_point else torch.get_default_dtype()


def pair(a: Operand, b: Operand) -> Pair:
    if type(a) is FieldTensor and type(b) is FieldTensor:
        field = a.arithmetic
        pa, pb = a.parts, b.parts
        if pa.dim() != pb.dim():
            pa = field.modulus.broadcastable(pa, pb.dim() - 1)
            pb = field.modulus.broadcastable(pb, pa.dim() - 1)
        dtype = a.dtype
        if dtype is not b.dtype:
            dtype = torch.result_type(a, b)
        return Pair(field, pa, pb, a.state, b.state, dtype)
    field = field_of(a, b)
    a, b = as_number(a), as_number(b)
    if is_number(b):
        value, bound = field.scalar(b, a.parts.dim() - 1)
        return Pair(field, a.parts, value, a.state, bound, _with_number(a.dtype, b))
    if is_number(a):
        value, bound = field.scalar(a, b.parts.dim() - 1)
        return Pair(field, value, b.parts, bound, b.state, _with_number(b.dtype, a))
    dtype = torch.result_type(a, b)
    result = pair(field.constant(a), field.constant(b))
    return result._replace(dtype=dtype)


def _with_number(dtype: torch.dtype, number: Operand) -> torch.dtype:
    if dtype.is_floating_point:
        return dtype
    if isinstance(number, bool):
        return dtype
    if isinstance(number, int):
        return torch.int64 if dtype is torch.bool else dtype
    return torch.get_default_dtype()
