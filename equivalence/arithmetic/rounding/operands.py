"""Two operands of an elementwise operation: values and bounds that broadcast, and the format of the
result.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from equivalence.arithmetic.rounding.precision import Precision, number_error
from equivalence.arithmetic.rounding.tensor import Rounding, RoundingTensor

Operand = Any  # a RoundingTensor, a plain tensor or a Python number


class Pair(NamedTuple):
    """Two operands, ready to be computed with."""

    context: Rounding
    a: Any  # float64 tensors, or Python floats for numbers
    b: Any
    a_bound: Any
    b_bound: Any
    dtype: torch.dtype
    alike: bool = False  # two tensors of as many dimensions

    @property
    def precision(self) -> Precision:
        """What the result is charged."""
        return self.context.precision_for(self.dtype)


def is_number(x: Operand) -> bool:
    """Whether a Python number was given."""
    return isinstance(x, int | float)


def as_number(x: Operand) -> Operand:
    """A plain tensor without dimensions acts as a number."""
    if isinstance(x, Tensor) and not isinstance(x, RoundingTensor) and x.dim() == 0:
        return x.item()
    return x


def context_of(*xs: Operand) -> Rounding:
    """The run that some operand belongs to."""
    return next(x.arithmetic for x in xs if isinstance(x, RoundingTensor))


def floating(dtype: torch.dtype) -> torch.dtype:
    """The dtype of a quotient."""
    return dtype if dtype.is_floating_point else torch.get_default_dtype()


def pair(a: Operand, b: Operand) -> Pair:
    """Both operands in one run, a number with the error of its conversion."""
    context = context_of(a, b)
    if isinstance(a, RoundingTensor) and isinstance(b, RoundingTensor):
        dtype = a.dtype if a.dtype is b.dtype else torch.result_type(a, b)
        pa, pb = a.parts, b.parts
        return Pair(context, pa[0], pb[0], pa[1], pb[1], dtype, pa.dim() == pb.dim())
    a, b = as_number(a), as_number(b)
    if is_number(a):
        dtype = torch.result_type(a, b)
        error = number_error(float(a), context.precision_for(dtype))
        return Pair(context, float(a), b.parts[0], error, b.parts[1], dtype)
    if is_number(b):
        dtype = torch.result_type(a, b)
        error = number_error(float(b), context.precision_for(dtype))
        return Pair(context, a.parts[0], float(b), a.parts[1], error, dtype)
    dtype = torch.result_type(a, b)
    a, b = context.constant(a), context.constant(b)
    return Pair(context, a.parts[0], b.parts[0], a.parts[1], b.parts[1], dtype)


def copied(x: RoundingTensor, dtype: torch.dtype | None = None) -> RoundingTensor:
    """The same elements in a storage of their own."""
    return x.arithmetic.wrap(x.parts.clone(), x.arithmetic.joined([x]), dtype or x.dtype)
