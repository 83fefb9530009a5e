"""Activations that are no elementary function: their slopes, and the order of their kernels'
errors.

Where a kernel cancels (1 + erf(x) far to the left), its error scales with the argument, not with
the result. Derivatives follow from torch's own formulas, which are dispatched again.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812  # the customary name

from equivalence.arithmetic.rounding.compare import gt
from equivalence.arithmetic.rounding.elementary import add, div, mul, neg, rsub, sub
from equivalence.arithmetic.rounding.functions import by_slope, ends, unary
from equivalence.arithmetic.rounding.reduction import total
from equivalence.arithmetic.rounding.selection import absolute, amax, clamp, where
from equivalence.arithmetic.rounding.tensor import Rounding, RoundingTensor

if TYPE_CHECKING:
    from equivalence.arithmetic.rounding.operands import Operand

aten = torch.ops.aten
exp, log, sigmoid = unary("exp"), unary("log"), unary("sigmoid")
# The largest |f'| on the real line, rounded up: at 2.3994, sqrt(2), about 1.4 and 1.4900.
SILU, GELU, GELU_TANH, MISH = 1.1, 1.13, 1.13, 1.09


def _of_argument(x: RoundingTensor, value: torch.Tensor, slope: torch.Tensor | float) -> Any:
    """A function whose kernel errs in proportion to its argument."""
    return by_slope(x, value, slope, magnitude=x.parts[0].abs())


@Rounding.rule(aten.silu.default)
def _silu(x: RoundingTensor) -> Any:
    return _of_argument(x, F.silu(x.parts[0]), SILU)


@Rounding.rule(aten.gelu.default)
def _gelu(x: RoundingTensor, *, approximate: str = "none") -> Any:
    slope = GELU if approximate == "none" else GELU_TANH
    return _of_argument(x, F.gelu(x.parts[0], approximate=approximate), slope)


@Rounding.rule(aten.mish.default)
def _mish(x: RoundingTensor) -> Any:
    return _of_argument(x, F.mish(x.parts[0]), MISH)


@Rounding.rule(aten.hardswish.default)
def _hardswish(x: RoundingTensor) -> Any:
    low, high, _ = ends(x)
    slope = torch.where(high < -3, 0.0, torch.where(low > 3, 1.0, 1.5))
    size = 8 * x.parts[0].abs()  # the product with 6 comes before the division
    return by_slope(x, F.hardswish(x.parts[0]), slope, kernel=2.0, magnitude=size)


@Rounding.rule(aten.hardsigmoid.default)
def _hardsigmoid(x: RoundingTensor) -> Any:
    return div(clamp(add(x, 3), 0, 6), 6)


@Rounding.rule(aten.leaky_relu.default)
def leaky_relu(x: RoundingTensor, negative_slope: Operand = 0.01) -> Any:
    """Exact on the right; one product on the left."""
    return where(gt(x, 0), x, mul(x, negative_slope))


@Rounding.rule(aten.elu.default)
def elu(x: RoundingTensor, alpha: Operand = 1, scale: Operand = 1, input_scale: Operand = 1) -> Any:
    """exp(x) - 1 may be computed as written: the error is granted to 1, the exponential's size."""
    _, high, _ = ends(x)
    left = abs(alpha * input_scale) * (high.clamp_max(0) * input_scale).exp()
    slope = torch.where(high > 0, left.clamp_min(1), left) * abs(scale)
    size = (x.parts[0].abs() + abs(alpha)) * abs(scale)
    return by_slope(x, _elu_value(x.parts[0], alpha, scale, input_scale), slope, magnitude=size)


def _elu_value(x: torch.Tensor, alpha: Any, scale: Any, input_scale: Any) -> torch.Tensor:
    result: torch.Tensor = aten.elu(x, alpha, scale, input_scale)
    return result


@Rounding.rule(aten.softplus.default)
def softplus(x: RoundingTensor, beta: Operand = 1, threshold: Operand = 20) -> Any:
    """Torch's function is linear beyond the threshold: where that is open, the jump counts."""
    low, high, _ = ends(x)
    jump = math.log1p(math.exp(-threshold)) / beta * (1 + 2.0**-40)
    scaled_low, scaled_high = low * beta, high * beta
    open_ = (scaled_low <= threshold * (1 + 2.0**-20)) & (scaled_high >= threshold * (1 - 2.0**-20))
    extra = torch.where(open_, jump, 0.0)
    slope = torch.where(scaled_high > threshold, 1.0, torch.sigmoid(scaled_high))
    size = F.softplus(x.parts[0], beta, threshold)
    return by_slope(x, size, slope, extra=extra)


@Rounding.rule(aten.sigmoid_backward.default)
def _sigmoid_backward(grad: Any, output: Any) -> Any:
    return mul(grad, mul(output, rsub(output, 1)))


@Rounding.rule(aten.tanh_backward.default)
def _tanh_backward(grad: Any, output: Any) -> Any:
    return mul(grad, rsub(mul(output, output), 1))


@Rounding.rule(aten.softshrink_backward.default)
def _softshrink_backward(grad: Any, x: Any, least: Operand) -> Any:
    return where(gt(absolute(x), least), grad, 0)


@Rounding.rule(aten.hardshrink_backward.default)
def _hardshrink_backward(grad: Any, x: Any, least: Operand) -> Any:
    return where(gt(absolute(x), least), grad, 0)


@Rounding.rule(aten.logsumexp.default)
def logsumexp(x: RoundingTensor, dim: Any, keepdim: bool = False) -> Any:
    """The maximum that kernels subtract cancels."""
    most = amax(x, dim, True)
    sums = log(total(exp(sub(x, most)), dim, keepdim))
    return add(sums, most if keepdim else amax(x, dim, False))


@Rounding.rule(aten.log_sigmoid_forward.default)
def log_sigmoid(x: RoundingTensor) -> Any:
    """The second result is what a kernel keeps for itself."""
    low, _, _ = ends(x)
    return by_slope(x, F.logsigmoid(x.parts[0]), torch.sigmoid(-low)), x.new_empty((0,))


@Rounding.rule(aten.log_sigmoid_backward.default)
def _log_sigmoid_backward(grad: Any, x: Any, _buffer: Any) -> Any:
    return mul(grad, sigmoid(neg(x)))
