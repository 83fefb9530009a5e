"""Choosing between elements: exact operations, with the bound of what may have been chosen.

Maximum and minimum are 1-Lipschitz: the result's bound is that of the operand that certainly wins,
else the larger of both. `where` on a condition that rounding leaves open may take the other side:
its bound adds their distance.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from equivalence.arithmetic.rounding.elementary import neg
from equivalence.arithmetic.rounding.operands import Operand, as_number, context_of, pair
from equivalence.arithmetic.rounding.precision import SAFE
from equivalence.arithmetic.rounding.tensor import Rounding, RoundingTensor
from equivalence.arithmetic.unavailable import Unavailable

aten = torch.ops.aten


@Rounding.rule(aten.relu.default)
def _relu(x: RoundingTensor) -> Any:
    value, bound = x.parts
    off = torch.add(value, bound, alpha=2) < 0
    return x.arithmetic.result(value.clamp_min(0), torch.where(off, 0.0, bound), x.dtype)


def _tensors(x: Operand, like: Tensor) -> Tensor:
    return torch.as_tensor(x, dtype=torch.float64, device=like.device)


def _extremum(a: Operand, b: Operand, sign: int) -> Any:
    p = pair(a, b)
    like = p.a if isinstance(p.a, Tensor) else p.b
    left, right, left_bound, right_bound = (_tensors(t, like) for t in (p.a, p.b, p.a_bound, p.b_bound))
    lead = (left - right) * sign
    doubt = (left_bound + right_bound) * (2 * SAFE)
    bound = torch.maximum(left_bound, right_bound)
    bound = torch.where(lead > doubt, left_bound, torch.where(lead < -doubt, right_bound, bound))
    value = torch.maximum(left, right) if sign > 0 else torch.minimum(left, right)
    return p.context.result(value, bound, p.dtype)


@Rounding.rule(aten.maximum.default, aten.clamp_min.default, aten.clamp_min.Tensor)
def _maximum(a: Operand, b: Operand) -> Any:
    return _extremum(a, b, 1)


@Rounding.rule(aten.minimum.default, aten.clamp_max.default, aten.clamp_max.Tensor)
def _minimum(a: Operand, b: Operand) -> Any:
    return _extremum(a, b, -1)


@Rounding.rule(aten.clamp.default, aten.clamp.Tensor)
def clamp(x: Any, low: Operand = None, high: Operand = None) -> Any:
    """Both limits, either of which may be missing."""
    x = x if low is None else _maximum(x, low)
    return x if high is None else _minimum(x, high)


@Rounding.rule(aten.hardtanh.default)
def _hardtanh(x: Any, low: Operand = -1, high: Operand = 1) -> Any:
    return clamp(x, low, high)


@Rounding.rule(aten.abs.default)
def absolute(x: RoundingTensor) -> Any:
    """The exact magnitude."""
    parts = x.parts.clone()
    parts[0].abs_()
    return x.arithmetic.wrap(parts, x.arithmetic.joined([x]), x.dtype)


def choose(condition: Tensor, doubtful: Tensor | None, a: Operand, b: Operand) -> Any:
    """A where the plain condition holds, else b; where doubtful, a bound for either choice."""
    p = pair(a, b)
    left, right, left_bound, right_bound = (_tensors(t, condition) for t in (p.a, p.b, p.a_bound, p.b_bound))
    value = torch.where(condition, left, right)
    bound = torch.where(condition, left_bound, right_bound)
    if doubtful is not None:
        wide = (left - right).abs().add(left_bound + right_bound, alpha=2).mul(SAFE)
        bound = torch.where(doubtful, wide, bound)
    return p.context.result(value, bound, p.dtype)


def split(condition: Tensor) -> tuple[Tensor, Tensor | None]:
    """A condition as it is for the value, and where it is open."""
    if not isinstance(condition, RoundingTensor):
        return condition, None
    value, bound = condition.parts
    return value != 0, ~(bound == 0)


@Rounding.rule(aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf)
def where(condition: Tensor, a: Operand, b: Operand) -> Any:
    """A choice between two operands, element by element."""
    if not (isinstance(a, RoundingTensor) or isinstance(b, RoundingTensor)):
        context = context_of(condition)
        a = as_number(a)
        a = context.constant(a, torch.get_default_dtype() if isinstance(a, float) else torch.int64)
    return choose(*split(condition), a, b)


@Rounding.rule(aten.masked_fill.Scalar, aten.masked_fill.Tensor)
def _masked_fill(x: Operand, mask: Tensor, value: Operand) -> Any:
    if not isinstance(x, RoundingTensor):
        x = context_of(mask, value).constant(x)
    if not isinstance(value, RoundingTensor):
        value = x.arithmetic.constant(as_number(value), x.dtype)
    result = choose(*split(mask), value, x)
    return x.arithmetic.wrap(result.parts, result.state, x.dtype)


@Rounding.rule(aten.threshold.default)
def _threshold(x: RoundingTensor, at: Operand, value: Operand) -> Any:
    from equivalence.arithmetic.rounding.compare import gt

    return where(gt(x, at), x, value)


@Rounding.rule(aten.threshold_backward.default)
def threshold_backward(grad: Operand, x: Operand, at: Operand) -> Any:
    """The gradient where x > at; a gate that rounding leaves open may pass all of it or nothing."""
    from equivalence.arithmetic.rounding.compare import gt

    if not isinstance(x, RoundingTensor):
        return where(x > at, grad, 0)
    return where(gt(x, at), grad, 0)


@Rounding.rule(aten.amax.default)
def amax(x: RoundingTensor, dim: Any = (), keepdim: bool = False) -> Any:
    """Members that cannot be greatest have no say in the bound."""
    value, bound = x.parts
    dims = list(dim) if len(dim) else list(range(x.dim()))
    most = torch.add(value, bound, alpha=2)
    least = torch.sub(value, bound, alpha=2).amax(dims, keepdim=True)
    widest = bound.masked_fill(most < least, 0).amax(dims, keepdim)
    return x.arithmetic.result(value.amax(dims, keepdim), widest, x.dtype)


@Rounding.rule(aten.amin.default)
def _amin(x: RoundingTensor, dim: Any = (), keepdim: bool = False) -> Any:
    return neg(amax(neg(x), dim, keepdim))


@Rounding.rule(aten.max.default)
def _max_all(x: RoundingTensor) -> Any:
    return amax(x)


@Rounding.rule(aten.min.default)
def _min_all(x: RoundingTensor) -> Any:
    return _amin(x)


@Rounding.rule(aten.max.other)
def _max_other(a: Operand, b: Operand) -> Any:
    return _maximum(a, b)


@Rounding.rule(aten.min.other)
def _min_other(a: Operand, b: Operand) -> Any:
    return _minimum(a, b)


def _dimension(function: Any, sign: int) -> Any:
    """The extremum along one axis, and its position where it is certain everywhere."""

    def rule(x: RoundingTensor, dim: int, keepdim: bool = False) -> Any:
        values = function(x, (dim,), keepdim)
        position: Any = (x.parts[0] * sign).max(dim, keepdim)[1]
        most = torch.add(x.parts[0] * sign, x.parts[1], alpha=2)
        least = torch.sub(x.parts[0] * sign, x.parts[1], alpha=2)
        contenders = (~(most < least.amax(dim, keepdim=True))).sum(dim)
        if bool((contenders > 1).any()):
            position = Unavailable.make(position.shape, "the position of an extremum that rounding leaves open")
        return values, position

    return rule


Rounding.rule(aten.max.dim)(_dimension(amax, 1))
Rounding.rule(aten.min.dim)(_dimension(_amin, -1))
