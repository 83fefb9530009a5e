"""Functions of one argument, by their slope: |f(c) - f(t)| <= max |f'| over [v - 2 b, v + 2 b]
times |c - t|.

Each kernel is granted `KERNEL` units of u (8 units in the last place) times the result, and a
result below the smallest normal number may be flushed to zero. Where the interval leaves the domain
of the function nothing is known. An exact argument has no error to pass on, even at a pole of the
slope.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from equivalence.arithmetic.rounding.elementary import mul
from equivalence.arithmetic.rounding.operands import Operand, floating
from equivalence.arithmetic.rounding.tensor import Rounding, RoundingTensor

if TYPE_CHECKING:
    from equivalence.arithmetic.stacked import Rule

aten = torch.ops.aten
KERNEL = 16.0
SLOPE_SAFE = 1.0 + 2.0**-32  # the slope itself is computed with torch's float64 kernels
Slope = Callable[[Tensor, Tensor, Tensor], Tensor]  # of the interval's ends and its least magnitude


def by_slope(
    x: RoundingTensor,
    value: Tensor,
    slope: Tensor | float,
    *,
    kernel: float = KERNEL,
    magnitude: Tensor | None = None,
    extra: Tensor | float = 0.0,
) -> Any:
    """A function's result from its value and the largest slope; `magnitude` is what the kernel's
    error scales with.
    """
    context = x.arithmetic
    dtype = floating(x.dtype)
    precision = context.precision_for(dtype)
    error = x.parts[1]
    bound = torch.where(error == 0, 0.0, error * slope * SLOPE_SAFE).add_(extra)
    reach = value.abs() if magnitude is None else magnitude.clone()
    precision.charge(bound, reach.add_(bound, alpha=2), kernel)
    flushed = 2 * precision.tiny * (1 + x.reach)
    return context.result(value, bound.add_(flushed), dtype)


def ends(x: RoundingTensor) -> tuple[Tensor, Tensor, Tensor]:
    """Both ends of the interval of all possible arguments, and its least magnitude."""
    value, bound = x.parts
    nearest = value.abs().sub_(bound, alpha=2).clamp_min_(0)
    return torch.sub(value, bound, alpha=2), torch.add(value, bound, alpha=2), nearest


def domain(least: Tensor, slope: Tensor) -> Tensor:
    """The slope where the least argument is admissible, else NaN."""
    return torch.where(least >= 0, slope, math.nan)


def _positive(power: float, factor: float = 1.0) -> Slope:
    return lambda low, high, _near: domain(low, factor * low.pow(power))


# Torch's half-precision kernels use a polynomial that is accurate against 1 only.
ABSOLUTE = frozenset({"erf"})
SLOPES: dict[str, Slope] = {
    "exp": lambda low, high, near: high.exp(),
    "expm1": lambda low, high, near: high.exp(),
    "exp2": lambda low, high, near: high.exp2(),
    "log": _positive(-1.0),
    "log2": _positive(-1.0, 1 / math.log(2)),
    "log10": _positive(-1.0, 1 / math.log(10)),
    "log1p": lambda low, high, near: domain(1 + low, 1 / (1 + low)),
    "tanh": lambda low, high, near: near.cosh().pow(-2),
    "sigmoid": lambda low, high, near: 0.5 / (1 + near.cosh()),
    "erf": lambda low, high, near: (-near * near).exp() * (2 / math.sqrt(math.pi)),
    "erfc": lambda low, high, near: (-near * near).exp() * (2 / math.sqrt(math.pi)),
    "sin": lambda low, high, near: torch.ones_like(low),
    "cos": lambda low, high, near: torch.ones_like(low),
    "atan": lambda low, high, near: 1 / (1 + near * near),
    "asinh": lambda low, high, near: (1 + near * near).rsqrt(),
    "sinh": lambda low, high, near: torch.maximum(low.abs(), high.abs()).cosh(),
    "cosh": lambda low, high, near: torch.maximum(low.abs(), high.abs()).sinh(),
}


def unary(name: str) -> Rule:
    """The rule of a function in `SLOPES`."""
    function, slope = getattr(torch, name), SLOPES[name]

    def rule(x: RoundingTensor) -> Any:
        value = function(x.parts[0])
        magnitude = torch.ones_like(value) if name in ABSOLUTE else None
        return by_slope(x, value, slope(*ends(x)), magnitude=magnitude)

    return rule


for _name in SLOPES:
    Rounding.rule(getattr(aten, _name).default)(unary(_name))


@Rounding.rule(aten.sqrt.default)
def sqrt(x: RoundingTensor) -> Any:
    """Near zero the difference of two roots is less: at most the root of the difference."""
    value, (low, _, _) = x.parts[0].sqrt(), ends(x)
    slope = torch.minimum(0.5 * low.rsqrt(), x.parts[1].rsqrt())
    return by_slope(x, value, domain(low, slope), kernel=4.0)


@Rounding.rule(aten.rsqrt.default)
def rsqrt(x: RoundingTensor) -> Any:
    """A reciprocal of a root, or one instruction with an error of two units in the last place."""
    low, _, _ = ends(x)
    return by_slope(x, x.parts[0].rsqrt(), domain(low, 0.5 * low.pow(-1.5)), kernel=6.0)


@Rounding.rule(aten.pow.Tensor_Scalar)
def _power(x: RoundingTensor, exponent: Operand) -> Any:
    low, high, near = ends(x)
    if exponent in (1, 2):
        return mul(x, 1.0 if exponent == 1 else x)
    if exponent == 0:
        return x.arithmetic.result(torch.ones_like(low), torch.zeros_like(low), x.dtype)
    if exponent in (0.5, -0.5):
        return sqrt(x) if exponent > 0 else rsqrt(x)
    value = x.parts[0].pow(exponent)
    p = float(exponent)
    if p.is_integer():
        far = torch.maximum(low.abs(), high.abs())
        slope = abs(p) * (far if p > 0 else near).pow(p - 1)
    else:
        slope = domain(low, abs(p) * torch.maximum(low.pow(p - 1), high.pow(p - 1)))
    # an exponent that the format does not hold is rounded: f changes by f |ln v| times that
    rounded = x.arithmetic.precision_for(floating(x.dtype)).number(p) > 0
    size = value.abs() * (1 + abs(p) * x.parts[0].abs().log().abs()) if rounded else None
    return by_slope(x, value, slope, kernel=KERNEL + abs(p), magnitude=size)


def _steps(function: Callable[[Tensor], Tensor]) -> Rule:
    """A nondecreasing step function is certain if both ends of the interval agree."""

    def rule(x: RoundingTensor) -> Any:
        low, high, _ = ends(x)
        bound = torch.where(x.parts[1] == 0, 0.0, function(high) - function(low))
        return x.arithmetic.result(function(x.parts[0]), bound, x.dtype)

    return rule


for _name in ("floor", "ceil", "round", "trunc"):
    Rounding.rule(getattr(aten, _name).default)(_steps(getattr(torch, _name)))
