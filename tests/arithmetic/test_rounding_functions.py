"""Every function of one argument and every operation of two, on arguments that are themselves
uncertain.
"""

from __future__ import annotations

import mpmath
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from test_rounding_truth import FORMATS, assert_bounded, mpf, np

from equivalence.arithmetic.rounding import Rounding

one = mpf(1)


def sigmoid(t):
    return one / (1 + mpmath.exp(-t))


def gelu_tanh(t):
    inner = mpmath.sqrt(2 / mpmath.pi) * (t + mpf(0.044715) * t**3)
    return t * (1 + mpmath.tanh(inner)) / 2


def clip(t, low, high):
    return min(max(t, mpf(low)), mpf(high))


def softplus(t):
    return t if t > 20 else mpmath.log1p(mpmath.exp(t))


def elu(t):
    return t if t > 0 else mpmath.expm1(t)


FUNCTIONS = {  # torch's function, the truth, the domain, the largest magnitude that is meant
    "exp": (torch.exp, mpmath.exp, None),
    "expm1": (torch.expm1, mpmath.expm1, None),
    "exp2": (torch.exp2, lambda t: mpf(2) ** t, None),
    "log": (torch.log, mpmath.log, 0),
    "log2": (torch.log2, lambda t: mpmath.log(t) / mpmath.log(2), 0),
    "log10": (torch.log10, mpmath.log10, 0),
    "log1p": (torch.log1p, mpmath.log1p, -1),
    "sqrt": (torch.sqrt, mpmath.sqrt, 0),
    "rsqrt": (torch.rsqrt, lambda t: one / mpmath.sqrt(t), 0),
    "reciprocal": (torch.reciprocal, lambda t: one / t, None),
    "tanh": (torch.tanh, mpmath.tanh, None),
    "sigmoid": (torch.sigmoid, sigmoid, None),
    "erf": (torch.erf, mpmath.erf, None),
    "erfc": (torch.erfc, mpmath.erfc, None),
    "sin": (torch.sin, mpmath.sin, None),
    "cos": (torch.cos, mpmath.cos, None),
    "atan": (torch.atan, mpmath.atan, None),
    "asinh": (torch.asinh, mpmath.asinh, None),
    "sinh": (torch.sinh, mpmath.sinh, None),
    "cosh": (torch.cosh, mpmath.cosh, None),
    "square": (torch.square, lambda t: t * t, None),
    "cube": (lambda x: x**3, lambda t: t**3, None),
    "inverse square": (lambda x: x**-2, lambda t: t**-2, None),
    "power": (lambda x: x**1.7, lambda t: t ** mpf(1.7), 0),
    "relu": (torch.relu, lambda t: max(t, mpf(0)), None),
    "abs": (torch.abs, abs, None),
    "relu6": (F.relu6, lambda t: clip(t, 0, 6), None),
    "leaky_relu": (lambda x: F.leaky_relu(x, 0.01), lambda t: t if t > 0 else t * mpf(0.01), None),
    "hardswish": (F.hardswish, lambda t: t * clip(t + 3, 0, 6) / 6, None),
    "hardsigmoid": (F.hardsigmoid, lambda t: clip(t + 3, 0, 6) / 6, None),
    "silu": (F.silu, lambda t: t * sigmoid(t), None),
    "gelu": (F.gelu, lambda t: t * mpmath.erfc(-t / mpmath.sqrt(2)) / 2, None),
    "gelu tanh": (lambda x: F.gelu(x, approximate="tanh"), gelu_tanh, None),
    "mish": (F.mish, lambda t: t * mpmath.tanh(mpmath.log1p(mpmath.exp(t))), None),
    "softplus": (F.softplus, softplus, None),
    "elu": (F.elu, elu, None),
    "selu": (F.selu, lambda t: mpf(1.0507009873554804934193349852946) * (
        t if t > 0 else mpf(1.6732632423543772848170429916717) * mpmath.expm1(t)), None),
    "logsigmoid": (F.logsigmoid, lambda t: -mpmath.log1p(mpmath.exp(-t)), None),
    "softsign": (F.softsign, lambda t: t / (1 + abs(t)), None),
    "tanhshrink": (F.tanhshrink, lambda t: t - mpmath.tanh(t), None),
    "floor": (torch.floor, mpmath.floor, None),
    "sign": (torch.sign, mpmath.sign, None),
    "gate": (lambda x: x * (x > 0), lambda t: max(t, mpf(0)), None),
    "where": (lambda x: torch.where(x > 1, x, 2 * x), lambda t: t if t > 1 else 2 * t, None),
    "times a third": (lambda x: x * (1 / 3), lambda t: t * mpf(1 / 3), None),
    "by a third": (lambda x: x / 0.3, lambda t: t / mpf(0.3), None),
    "less a tenth": (lambda x: 0.1 - x, lambda t: mpf(0.1) - t, None),
}  # fmt: skip

BINARY = {
    "add": (torch.add, lambda a, b: a + b),
    "sub": (torch.sub, lambda a, b: a - b),
    "mul": (torch.mul, lambda a, b: a * b),
    "div": (torch.div, lambda a, b: a / b),
    "maximum": (torch.maximum, max),
    "minimum": (torch.minimum, min),
    "addcmul": (lambda a, b: torch.addcmul(a, a, b, value=0.3), lambda a, b: a + mpf(0.3) * a * b),
    "addcdiv": (lambda a, b: torch.addcdiv(a, a, b, value=0.3), lambda a, b: a + mpf(0.3) * a / b),
    "lerp": (lambda a, b: torch.lerp(a, b, 0.9), lambda a, b: a + mpf(0.9) * (b - a)),
    "gate": (lambda a, b: a * (a > b), lambda a, b: a if a > b else mpf(0)),
}


def arguments(random, dtype, least=None, count=4):
    """Truths, what a kernel of this dtype was given, and a value with a bound for both."""
    limit = torch.finfo(dtype).max / 4
    truths, kernels, parts = [], [], []
    for _ in range(count):
        kind = random.random()
        t = random.uniform(-20, 20) if kind < 0.5 else float(random.randint(-8, 8))
        if kind < 0.3:
            t *= 10.0 ** random.randint(-44, 38)
        t = max(min(t, limit), -limit)
        if least is not None and t <= least:
            t = 2.0 * least - t + 1e-3
        error = random.choice([0.0, 1e-15, 1e-9, 1e-6, 1e-3, 0.1]) * max(abs(t), 1e-30)
        c = torch.tensor(t + random.uniform(-1, 1) * error).to(dtype).item()
        t = t if error else c
        v = t + random.choice([-1, 1, random.random()]) * error
        bound = float(max(abs(mpf(c) - mpf(t)), abs(mpf(v) - mpf(t)))) * (1 + 1e-12)
        truths.append(mpf(t))
        kernels.append(c)
        parts.append((v, bound))
    x = Rounding(dtype).embed(torch.zeros(count, dtype=dtype))
    x.parts.copy_(torch.tensor(parts, dtype=torch.float64).T)
    x.state.exact = not x.parts[1].any()
    return truths, torch.tensor(kernels, dtype=dtype), x


def assert_holds(result, computed, truths):
    truth = np.array(truths, dtype=object)
    assert_bounded(result, result.value, truth)
    assert_bounded(result, computed, truth)


def within(function, *values):
    """The truth, or NaN where the argument is no element of the domain."""
    try:
        result = function(*values)
    except (ValueError, ZeroDivisionError):
        return mpmath.nan
    return result if isinstance(result, mpmath.mpf) else mpmath.nan


@pytest.mark.parametrize("name", FUNCTIONS)
@given(random=st.randoms(use_true_random=True))
def test_functions_stay_within_their_bounds(name, random):
    function, truth, least = FUNCTIONS[name]
    for dtype in FORMATS:
        truths, kernels, x = arguments(random, dtype, least)
        assert_holds(function(x), function(kernels), [within(truth, t) for t in truths])


@pytest.mark.parametrize("name", BINARY)
@given(random=st.randoms(use_true_random=True))
def test_operations_stay_within_their_bounds(name, random):
    function, truth = BINARY[name]
    for dtype in FORMATS:
        truths, kernels, x = arguments(random, dtype)
        others, other_kernels, y = arguments(random, dtype)
        context = x.arithmetic
        y = context.wrap(y.parts, y.state, y.dtype)
        y.arithmetic = context
        expected = [within(truth, a, b) for a, b in zip(truths, others, strict=True)]
        assert_holds(function(x, y), function(kernels, other_kernels), expected)


def test_bounds_of_smooth_functions_are_no_larger_than_a_few_units():
    for name in ("exp", "tanh", "sigmoid", "rsqrt", "square", "log1p"):
        x = Rounding(torch.float32).embed(torch.linspace(0.5, 3, 50))
        result = FUNCTIONS[name][0](x)
        assert bool((result.bound <= 20 * 2.0**-24 * result.value.abs()).all()), name
