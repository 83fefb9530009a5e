"""One random function for everything piecewise linear.

step(t) is 1 for t > 0, 0 for t < 0 and 1/2 at 0, of which the field keeps step(-t) = 1 - step(t) and step(0) = 1/2:
step(t) = 1/2 + sign(t) · R(|t|) with a random function R and the canonical sign. Every real-number identity used
here, such as relu(x) = x · step(x), holds for the actual step at every real x, zero included, so whatever follows
from them is true.

A result remembers its derivative with respect to its argument ("slope"), because torch's backward formulas are
given the *result* and ask for its sign. The comparison t > 0 is not step(t): see `compare`.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from equivalence.arithmetic.field.bound import Bound
from equivalence.arithmetic.field.operands import Operand, as_number, is_number
from equivalence.arithmetic.field.ring import add, div, mul, neg, rsub, sub
from equivalence.arithmetic.field.tensor import Field, FieldTensor
from equivalence.arithmetic.stacked import unsupported

aten = torch.ops.aten
HALF = Fraction(1, 2)
STEP = Bound(degree=1, high=1.0, low=-1.0)


def gate(x: FieldTensor) -> tuple[Tensor, Tensor]:
    """step(x), not reduced (at most p in size, so it may be a factor once), and sign(x)."""
    sign, value = x.arithmetic.signed("step", x.parts, x.state)
    half, _ = x.arithmetic.scalar(HALF, value.dim() - 1)
    return value.mul_(sign).add_(half), sign


def step(x: FieldTensor) -> Any:
    parts, _ = gate(x)
    return x.arithmetic.wrap(x.arithmetic.modulus.reduce_(parts), STEP.copy(), x.dtype)


@Field.rule(aten.relu.default)
def relu(x: FieldTensor) -> Any:
    factor, sign = gate(x)
    result = x.arithmetic.wrap(x.arithmetic.modulus.mul(x.parts, factor), x.state * STEP, x.dtype)
    result.remember("relu", factor, sign)
    return result


@Field.rule(aten.threshold_backward.default)
def threshold_backward(grad: FieldTensor, x: Any, threshold: Operand) -> Any:
    known = x.known("relu") if threshold == 0 and isinstance(x, FieldTensor) else None
    if known is None:
        from equivalence.arithmetic.field.compare import gt

        return mul(grad, gt(x, threshold))
    factor, sign = known
    field = grad.arithmetic
    strict = factor * sign.abs()  # torch's derivative of relu where its argument is identically zero is 0
    return field.wrap(field.modulus.mul(grad.parts, strict), grad.state * STEP, grad.dtype)


def _slope(x: FieldTensor, negative: Any) -> Any:
    """Negative + (1 - negative) · step(x)."""
    one_minus = 1 - Fraction(negative) if is_number(negative) else rsub(negative, 1)
    return add(mul(step(x), one_minus), negative)


@Field.rule(aten.leaky_relu.default)
def leaky_relu(x: FieldTensor, negative_slope: Operand = 0.01) -> Any:
    slope = _slope(x, negative_slope)
    result = mul(x, slope)
    result.remember(("leaky", negative_slope), slope.parts, note=slope.state)
    return result


@Field.rule(aten.leaky_relu_backward.default)
def leaky_relu_backward(grad: FieldTensor, x: FieldTensor, negative_slope: Operand, self_is_result: bool) -> Any:
    slope = _remembered(x, ("leaky", negative_slope)) if self_is_result else None
    if slope is None and self_is_result and negative_slope < 0:
        raise unsupported("aten.leaky_relu_backward", "a negative slope hides the sign of the argument")
    return mul(grad, _slope(x, negative_slope) if slope is None else slope)


def _remembered(x: FieldTensor, kind: Any) -> Any:
    """The derivative that a result brought along, if it is the result of this function."""
    known = x.known(kind)
    if known is None or x.companion is None:
        return None
    return x.arithmetic.wrap(known[0], x.companion.note.copy(), x.dtype)


@Field.rule(aten._prelu_kernel.default)
def prelu(x: FieldTensor, weight: Any) -> Any:
    return mul(x, _slope(x, x.arithmetic.constant(weight)))


@Field.rule(aten._prelu_kernel_backward.default)
def prelu_backward(grad: FieldTensor, x: FieldTensor, weight: Any) -> Any:
    weight = x.arithmetic.constant(weight)
    negative_part = mul(x, rsub(step(x), 1))
    return mul(grad, _slope(x, weight)), mul(grad, negative_part)


@Field.rule(aten.abs.default)
def absolute(x: FieldTensor) -> Any:
    return mul(x, sgn(x))


@Field.rule(aten.sgn.default, aten.sign.default)
def sgn(x: FieldTensor) -> Any:
    return sub(mul(step(x), 2), 1)


@Field.rule(aten.maximum.default)
def maximum(a: Operand, b: Operand) -> Any:
    return add(relu(sub(a, b)), b)


@Field.rule(aten.minimum.default)
def minimum(a: Operand, b: Operand) -> Any:
    return sub(a, relu(sub(a, b)))


@Field.rule(aten.clamp_min.default, aten.clamp_min.Tensor)
def clamp_min(x: Operand, least: Operand) -> Any:
    return add(relu(sub(x, least)), least) if as_number(least) != 0 else relu(x)


@Field.rule(aten.clamp_max.default, aten.clamp_max.Tensor)
def clamp_max(x: Operand, most: Operand) -> Any:
    return sub(x, relu(sub(x, most)))


@Field.rule(aten.clamp.default, aten.clamp.Tensor, aten.hardtanh.default)
def clamp(x: Any, low: Operand = None, high: Operand = None) -> Any:
    low, high = as_number(low), as_number(high)
    if low is None:
        return clamp_max(x, high)
    if high is None:
        return clamp_min(x, low)
    if not (is_number(low) and is_number(high) and low <= high):
        return minimum(clamp_min(x, low), x.arithmetic.constant(high))
    below, above = sub(x, low), sub(x, high)
    (first, _), (second, _) = gate(below), gate(above)
    field = x.arithmetic
    modulus = field.modulus
    parts = modulus.mul(below.parts, first).sub_(modulus.mul(above.parts, second))
    result = add(field.wrap(parts, below.state * STEP + above.state * STEP, x.dtype), low)
    slope = modulus.reduce_(first - second)
    result.remember(("clamp", low, high), slope, note=STEP + STEP)
    return result


@Field.rule(aten.hardtanh_backward.default)
def hardtanh_backward(grad: FieldTensor, x: FieldTensor, low: Operand, high: Operand) -> Any:
    """The derivative of clamp; x may be the result, clamped in place, and clamping twice changes nothing."""
    slope = _remembered(x, ("clamp", low, high))
    return mul(grad, sub(step(sub(x, low)), step(sub(x, high))) if slope is None else slope)


@Field.rule(aten.hardsigmoid.default)
def hardsigmoid(x: FieldTensor) -> Any:
    return div(clamp(add(x, 3), 0, 6), 6)


@Field.rule(aten.hardsigmoid_backward.default)
def hardsigmoid_backward(grad: FieldTensor, x: FieldTensor) -> Any:
    return div(hardtanh_backward(grad, x, -3, 3), 6)


@Field.rule(aten.hardswish.default)
def hardswish(x: FieldTensor) -> Any:
    return mul(x, hardsigmoid(x))


@Field.rule(aten.hardswish_backward.default)
def hardswish_backward(grad: FieldTensor, x: FieldTensor) -> Any:
    return add(mul(grad, hardsigmoid(x)), mul(x, hardsigmoid_backward(grad, x)))


@Field.rule(aten.softshrink.default)
def softshrink(x: FieldTensor, lambd: Operand = 0.5) -> Any:
    return sub(relu(sub(x, lambd)), relu(neg(add(x, lambd))))


@Field.rule(aten.softshrink_backward.default)
def softshrink_backward(grad: FieldTensor, x: FieldTensor, lambd: Operand) -> Any:
    return mul(grad, add(step(sub(x, lambd)), step(neg(add(x, lambd)))))


def _elu_parts(x: FieldTensor, alpha: Operand, scale: Operand, input_scale: Operand) -> tuple[Any, Any]:
    """Elu and its derivative; both pieces are 0 at 0, so step's value there does not matter."""
    from equivalence.arithmetic.field.opaque import exp

    positive = step(x)
    curve = exp(mul(x, input_scale))
    negative = rsub(positive, 1)
    value = add(mul(x, positive), mul(mul(sub(curve, 1), alpha), negative))
    slope = add(positive, mul(mul(mul(curve, alpha), input_scale), negative))
    return mul(value, scale), mul(slope, scale)


@Field.rule(aten.elu.default)
def elu(x: FieldTensor, alpha: Operand = 1, scale: Operand = 1, input_scale: Operand = 1) -> Any:
    value, slope = _elu_parts(x, alpha, scale, input_scale)
    value.remember(("elu", alpha, scale, input_scale), slope.parts, note=slope.state)
    return value


@Field.rule(aten.elu_backward.default)
def elu_backward(
    grad: FieldTensor, alpha: Operand, scale: Operand, input_scale: Operand, is_result: bool, x: Any
) -> Any:
    slope = _remembered(x, ("elu", alpha, scale, input_scale)) if is_result else None
    if slope is None and is_result:
        raise unsupported("aten.elu_backward", "the result it is given is not the result of elu any more")
    return mul(grad, _elu_parts(x, alpha, scale, input_scale)[1] if slope is None else slope)
