"""Every activation a spec can name, by the formula of torch's documentation and its defaults.

Guarantee: each formula stands once and serves every number type. Where a formula as printed would
overflow for large arguments (exp in a sigmoid) it is turned into an equal one that does not; what
lies beyond a threshold follows the definition, so softplus is linear above 20 in any precision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from equivalence.blocks.reference.number_types import Array, NumberType

# The doubles that torch.nn.SELU documents.
_SELU_ALPHA = 1.6732632423543772848170429916717
_SELU_SCALE = 1.0507009873554804934193349852946


def activate(name: str, x: Array, numbers: NumberType) -> Array:
    """The activation of that name, element by element; NaN stays NaN.

    >>> from equivalence.blocks.reference.number_types import Floats
    >>> activate("relu", np.array([-2.0, 0.0, 3.0]), Floats(np.dtype(np.float64)))
    array([0., 0., 3.])

    Args:
        name: a function of `torch.nn.functional`, one of `spec.ACTIVATIONS`.
        x: numbers of any shape.
        numbers: their number type.

    Raises:
        ReferenceInputError: if the number type has no such values.

    Source: the documentation of torch.nn, one class for each activation.
    """
    return _FORMULAS[name](x, numbers)


def _clip(x: Array, low: Any, high: Any) -> Array:
    return np.where(x < low, low, np.where(x > high, high, x))


def _negative(x: Array, numbers: NumberType) -> Array:
    """min(0, x)."""
    return np.where(x > 0, numbers.constant(0), x)


def _relu(x: Array, numbers: NumberType) -> Array:
    return np.where(x < 0, numbers.constant(0), x)


def _relu6(x: Array, numbers: NumberType) -> Array:
    return _clip(x, numbers.constant(0), numbers.constant(6))


def _leaky_relu(x: Array, numbers: NumberType) -> Array:
    return np.where(x < 0, x * numbers.constant(0.01), x)


def _elu(x: Array, numbers: NumberType) -> Array:
    return np.where(x > 0, x, numbers.function("expm1")(_negative(x, numbers)))


def _selu(x: Array, numbers: NumberType) -> Array:
    below = numbers.function("expm1")(_negative(x, numbers)) * numbers.constant(_SELU_ALPHA)
    y: Array = np.where(x > 0, x, below) * numbers.constant(_SELU_SCALE)
    return y


def _gelu(x: Array, numbers: NumberType) -> Array:
    """x·Φ(x), where Φ(x) = (1 + erf(x / √2)) / 2."""
    erf, two = numbers.function("erf"), numbers.constant(2)
    root = numbers.sqrt(np.asarray(two))
    return numbers.divide(x * (erf(numbers.divide(x, root)) + 1), two)


def _log1p_exp(x: Array, numbers: NumberType) -> Array:
    """log(1 + exp(x)), the large part taken out of the logarithm."""
    exp, log1p = numbers.function("exp"), numbers.function("log1p")
    y: Array = _relu(x, numbers) + log1p(exp(-abs(x)))
    return y


def _sigmoid(x: Array, numbers: NumberType) -> Array:
    exp = numbers.function("exp")
    return numbers.divide(exp(_negative(x, numbers)), exp(-abs(x)) + 1)


def _logsigmoid(x: Array, numbers: NumberType) -> Array:
    return -_log1p_exp(-x, numbers)


def _softplus(x: Array, numbers: NumberType) -> Array:
    return np.where(x > 20, x, _log1p_exp(x, numbers))


def _silu(x: Array, numbers: NumberType) -> Array:
    return x * _sigmoid(x, numbers)


def _mish(x: Array, numbers: NumberType) -> Array:
    return x * numbers.function("tanh")(_log1p_exp(x, numbers))


def _hardsigmoid(x: Array, numbers: NumberType) -> Array:
    return numbers.divide(_relu6(x + 3, numbers), numbers.constant(6))


def _hardswish(x: Array, numbers: NumberType) -> Array:
    return numbers.divide(x * _relu6(x + 3, numbers), numbers.constant(6))


def _hardtanh(x: Array, numbers: NumberType) -> Array:
    return _clip(x, numbers.constant(-1), numbers.constant(1))


def _hardshrink(x: Array, numbers: NumberType) -> Array:
    return np.where(abs(x) <= numbers.constant(0.5), numbers.constant(0), x)


def _softshrink(x: Array, numbers: NumberType) -> Array:
    half = numbers.constant(0.5)
    return x - _clip(x, -half, half)


def _softsign(x: Array, numbers: NumberType) -> Array:
    return numbers.divide(x, abs(x) + 1)


def _tanh(x: Array, numbers: NumberType) -> Array:
    return numbers.function("tanh")(x)


def _tanhshrink(x: Array, numbers: NumberType) -> Array:
    return x - numbers.function("tanh")(x)


_FORMULAS: dict[str, Callable[[Array, NumberType], Array]] = {
    "relu": _relu,
    "relu6": _relu6,
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "celu": _elu,  # alpha is 1 by default, where both are one function
    "selu": _selu,
    "gelu": _gelu,
    "silu": _silu,
    "mish": _mish,
    "sigmoid": _sigmoid,
    "logsigmoid": _logsigmoid,
    "hardsigmoid": _hardsigmoid,
    "hardswish": _hardswish,
    "hardtanh": _hardtanh,
    "hardshrink": _hardshrink,
    "softshrink": _softshrink,
    "softplus": _softplus,
    "softsign": _softsign,
    "tanh": _tanh,
    "tanhshrink": _tanhshrink,
}
