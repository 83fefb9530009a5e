"""The four operations and what is made of them, by the standard model of `precision`.

With reach |v| + 2 b >= |t|, |c| (see `tensor`): for a product |c1 c2 - t1 t2| <= |c1| |c2 - t2| +
|t2| |c1 - t1|; for a quotient |c1 / c2 - t1 / t2| <= (|c1 - t1| + |t1 / t2| |c2 - t2|) / |c2|; then
the rounding of the result. Additions have no underflow error, and a product with an exact zero is
an exact zero, so exact zeros stay exact.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from equivalence.arithmetic.rounding.compare import logical_or
from equivalence.arithmetic.rounding.operands import Operand, copied, floating, is_number, pair
from equivalence.arithmetic.rounding.precision import SAFE
from equivalence.arithmetic.rounding.tensor import Knowledge, Rounding, RoundingTensor
from equivalence.arithmetic.stacked import unsupported

aten = torch.ops.aten


def _scaled(b: Operand, alpha: Operand) -> Operand:
    if is_number(alpha) and alpha == 1:
        return b
    return mul(b, alpha) if isinstance(b, Tensor) else b * alpha


def _sum(a: Operand, b: Operand, sign: int) -> Any:
    if is_number(b) and b == 0 and a.dtype.is_floating_point:
        return copied(a)
    if _is_mask(a) and _is_mask(b):  # torch subtracts no masks
        return logical_or(a, b)
    p = pair(a, b)
    if sign > 0 and p.alike:
        parts = a.parts + b.parts  # values and bounds add up alike
        value, bound = parts.unbind()
        p.precision.charge(bound, value.abs().add_(bound, alpha=2), 1)
        return p.context.wrap(parts, Knowledge(), p.dtype)
    value = p.a + p.b if sign > 0 else p.a - p.b
    bound = p.a_bound + p.b_bound
    p.precision.charge(bound, value.abs().add_(bound, alpha=2), 1)
    return p.context.result(value, bound, p.dtype)


@Rounding.rule(aten.add.Tensor, aten.add.Scalar)
def add(a: Operand, b: Operand, alpha: Operand = 1) -> Any:
    """The sum a + alpha b."""
    return _sum(a, _scaled(b, alpha), 1)


@Rounding.rule(aten.sub.Tensor, aten.sub.Scalar)
def sub(a: Operand, b: Operand, alpha: Operand = 1) -> Any:
    """The difference a - alpha b."""
    return _sum(a, _scaled(b, alpha), -1)


@Rounding.rule(aten.rsub.Tensor, aten.rsub.Scalar)
def rsub(a: Operand, b: Operand, alpha: Operand = 1) -> Any:
    """The difference b - alpha a."""
    return _sum(b, _scaled(a, alpha), -1)


def _is_mask(x: Operand) -> bool:
    return isinstance(x, bool) or (isinstance(x, Tensor) and x.dtype is torch.bool)


@Rounding.rule(aten.mul.Tensor, aten.mul.Scalar)
def mul(a: Operand, b: Operand) -> Any:
    """The product; with a mask it is exact."""
    p = pair(a, b)
    value = p.a * p.b
    reach_a, reach_b = abs(p.a) + 2 * p.a_bound, abs(p.b) + 2 * p.b_bound
    bound = p.a_bound * (abs(p.b) + p.b_bound) + reach_a * p.b_bound
    roundings = 0 if _is_mask(a) or _is_mask(b) else 1
    p.precision.charge(bound, reach_a * reach_b, roundings)
    if roundings:
        for reach, other in ((reach_a, reach_b), (reach_b, reach_a)):
            if is_number(reach):
                present = other.sign() * (reach != 0)
                break
        else:
            present = reach_a.sign() * reach_b.sign()
        bound.add_(present, alpha=2 * p.precision.eta)
    return p.context.result(value, bound, p.dtype)


@Rounding.rule(aten.neg.default)
def neg(x: RoundingTensor) -> Any:
    """The exact negative."""
    parts = x.parts.clone()
    parts[0].neg_()
    return x.arithmetic.wrap(parts, x.arithmetic.joined([x]), x.dtype)


def divide(a: Operand, b: Operand) -> Any:
    """Three roundings, as a quotient may be computed as a product with the rounded reciprocal."""
    p = pair(a, b)
    divisor = torch.as_tensor(p.b, dtype=torch.float64, device=p.context.device)
    value = p.a / divisor
    least = (divisor.abs() - 2 * p.b_bound) / SAFE
    quotient = (abs(p.a) + 2 * p.a_bound) / least
    bound = (p.a_bound + quotient * p.b_bound) / least
    dtype = floating(p.dtype)
    precision = p.context.precision_for(dtype)
    underflow = (2 * precision.eta) * (1 + abs(p.a) + 2 * p.a_bound)
    precision.charge(bound, quotient, 3).add_(underflow)
    usable = least > 2.0 / torch.finfo(precision.dtype).max  # or the reciprocal overflows
    bound = torch.where(usable, bound, math.inf)
    return p.context.result(value, bound, dtype)


@Rounding.rule(aten.div.Tensor, aten.div.Scalar)
def div(a: Operand, b: Operand) -> Any:
    """The quotient of real numbers."""
    if is_number(b) and b == 1 and a.dtype.is_floating_point:
        return copied(a)
    return divide(a, b)


@Rounding.rule(aten.div.Tensor_mode, aten.div.Scalar_mode)
def _div_mode(a: Operand, b: Operand, *, rounding_mode: str | None = None) -> Any:
    if rounding_mode is not None:
        raise unsupported("aten.div", f"rounding_mode={rounding_mode!r} has no rule")
    return div(a, b)


@Rounding.rule(aten.reciprocal.default)
def _reciprocal(x: RoundingTensor) -> Any:
    return divide(1.0, x)


@Rounding.rule(aten.square.default)
def square(x: RoundingTensor) -> Any:
    """The product with itself."""
    return mul(x, x)


def either(first: Any, *others: Any) -> Any:
    """The same expression evaluated in several orders: a value, and a bound for them all."""
    bound = first.parts[1]
    for other in others:
        bound = torch.maximum(bound, other.parts[1])
    return first.arithmetic.result(first.parts[0], bound, first.dtype)


@Rounding.rule(aten.addcmul.default)
def _addcmul(x: Operand, a: Operand, b: Operand, *, value: Operand = 1) -> Any:
    if value == 1:
        return add(x, mul(a, b))
    orders = mul(mul(a, b), value), mul(mul(a, value), b), mul(a, mul(b, value))
    return add(x, either(*orders))


@Rounding.rule(aten.addcdiv.default)
def _addcdiv(x: Operand, a: Operand, b: Operand, *, value: Operand = 1) -> Any:
    quotient = div(a, b)
    if value != 1:
        quotient = either(mul(quotient, value), div(mul(a, value), b))
    return add(x, quotient)


@Rounding.rule(aten.lerp.Scalar, aten.lerp.Tensor)
def lerp(start: Operand, end: Operand, weight: Operand) -> Any:
    """Kernels start from the nearer end, with weight and 1 - weight in their own format."""
    way = sub(end, start)
    weight = way.arithmetic.constant(weight)
    return either(add(start, mul(way, weight)), sub(end, mul(way, rsub(weight, 1))))
