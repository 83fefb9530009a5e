"""Sums, and linear maps with nonnegative coefficients: applied to value, bound and magnitude alike.

A sum of n elements has an error of (n + 3) u times the sum of magnitudes (see `precision`). The
variance is that of kernels that subtract the mean before squaring, in two passes or by updating
(Chan, Golub and LeVeque, Amer. Statist. 37, 1983): the mean's error enters each square at first
order and the final sum is charged four times. A kernel that subtracts the squared mean from the
mean square is no conforming kernel.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from equivalence.arithmetic.rounding.elementary import div, square, sub
from equivalence.arithmetic.rounding.precision import safe, sum_units
from equivalence.arithmetic.rounding.tensor import Rounding, RoundingTensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

aten = torch.ops.aten


def linear(
    op: Callable[[Tensor], Tensor],
    x: RoundingTensor,
    terms: int,
    dtype: torch.dtype,
    *,
    averages: bool = False,
    factor: float = 1.0,
) -> Any:
    """A map of which every result sums at most so many elements, or averages them over at least
    one.
    """
    context = x.arithmetic
    precision = context.precision_for(dtype)
    value, bound = x.parts
    roundings = factor * sum_units(terms)
    result, spread = op(value), op(bound).mul(safe(terms))
    magnitude = op(value.abs()).add_(spread, alpha=2)
    if averages:  # the sum before the division is up to `terms` times as large
        largest = magnitude * (precision.headroom * terms)
        spread = torch.where(largest.isfinite(), spread, torch.inf)
    precision.charge(spread, magnitude.mul_(safe(terms)), roundings)
    if averages:
        spread.add_((terms + 2) * precision.eta)
    return context.result(result, spread, dtype)


def _axes(x: Tensor, dim: Any) -> list[int]:
    if dim is None or (not isinstance(dim, int) and len(dim) == 0):
        return list(range(x.dim()))
    return [d % x.dim() for d in ((dim,) if isinstance(dim, int) else dim)] if x.dim() else []


def count(x: Tensor, dims: Sequence[int]) -> int:
    """How many elements one result is made of."""
    return math.prod(x.shape[d] for d in dims)


@Rounding.rule(aten.sum.dim_IntList, aten.sum.default)
def total(x: RoundingTensor, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Any:
    """The sum over some axes, or all."""
    return _total(x, dim, keepdim, dtype)


def _total(x: RoundingTensor, dim: Any, keepdim: bool, dtype: torch.dtype | None, factor: float = 1.0) -> Any:
    dims = _axes(x, dim)
    target = dtype or (x.dtype if x.dtype.is_floating_point else torch.int64)
    if count(x, dims) == 1:
        value = x.parts.sum([d + 1 for d in dims], keepdim) if dims else x.parts.clone()
        return x.arithmetic.wrap(value, x.arithmetic.joined([x]), target)
    return linear(lambda t: t.sum(dims, keepdim), x, count(x, dims), target, factor=factor)


@Rounding.rule(aten.mean.dim, aten.mean.default)
def _mean(x: RoundingTensor, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Any:
    return div(total(x, dim, keepdim, dtype=dtype), max(1, count(x, _axes(x, dim))))


@Rounding.rule(aten.var.correction)
def _var(x: RoundingTensor, dim: Any = None, *, correction: Any = None, keepdim: bool = False) -> Any:
    return var_mean(x, dim, correction=correction, keepdim=keepdim)[0]


@Rounding.rule(aten.var_mean.correction)
def var_mean(x: RoundingTensor, dim: Any = None, *, correction: Any = None, keepdim: bool = False) -> Any:
    """Variance and mean over some axes, or all."""
    centre = _mean(x, dim, True)
    freedom = count(x, _axes(x, dim)) - (1 if correction is None else correction)
    squares = _total(square(sub(x, centre)), dim, keepdim, None, factor=4.0)
    return div(squares, max(0, freedom)), (centre if keepdim else _mean(x, dim))


@Rounding.rule(aten.cumsum.default)
def _cumsum(x: RoundingTensor, dim: int, *, dtype: torch.dtype | None = None) -> Any:
    target = dtype or (x.dtype if x.dtype.is_floating_point else torch.int64)
    terms = x.shape[dim] if x.dim() else 1
    return linear(lambda t: t.cumsum(dim), x, max(1, terms), target)
