"""In which numbers the reference computes: floats, exact fractions, or mpmath's.

Guarantee: one call computes in one number type, found from what was given, and a number type does
what it can do exactly or says what it cannot: nothing is rounded to floats on the way. Integers
are computed over Python's integers, so no sum can overflow, and become fractions where something
is divided.
"""

from __future__ import annotations

import math
import numbers
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

Array = npt.NDArray[Any]
Transcendental = Literal["exp", "expm1", "log1p", "tanh", "erf"]


class ReferenceInputError(ValueError):
    """The reference was given something that it cannot compute a block from."""


class NumberType(Protocol):
    """What the reference needs of numbers besides +, −, × and comparison."""

    def lift(self, array: Array) -> Array:
        """The same numbers in this number type."""

    def constant(self, value: float) -> Any:
        """A number of a formula, exactly as the double that it is."""

    def divide(self, array: Array, by: Any) -> Array:
        """Element by element; a zero divisor is the caller's mistake."""

    def sqrt(self, array: Array) -> Array:
        """Square roots."""

    def function(self, name: Transcendental) -> Callable[[Array], Array]:
        """A transcendental function, element by element."""


class Floats:
    """NumPy's floating-point numbers of one precision, rounded as they always are.

    >>> Floats(np.dtype(np.float64)).function("erf")(np.array([0.0, 30.0]))
    array([0., 1.])

    Args:
        dtype: the precision in which everything is computed.
    """

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype

    def lift(self, array: Array) -> Array:
        """The numbers in the one precision."""
        return array.astype(self.dtype)

    def constant(self, value: float) -> Any:
        """The number in the one precision."""
        return self.dtype.type(value)

    def divide(self, array: Array, by: Any) -> Array:
        """Rounded quotients."""
        return np.asarray(array / by)

    def sqrt(self, array: Array) -> Array:
        """Rounded roots."""
        return np.asarray(np.sqrt(array))

    def function(self, name: Transcendental) -> Callable[[Array], Array]:
        """NumPy's function; erf, which NumPy lacks, is the standard library's."""
        if name == "erf":
            erf = np.frompyfunc(math.erf, 1, 1)
            return lambda array: np.asarray(erf(array), dtype=self.dtype)
        function: Callable[[Array], Array] = getattr(np, name)
        return function


class Exact:
    """Python's integers and fractions: every result is exact, or an error.

    >>> Exact().sqrt(np.array([Fraction(9, 4)], dtype=object))
    array([Fraction(3, 2)], dtype=object)
    """

    def lift(self, array: Array) -> Array:
        """Integers as Python's, fractions as `fractions.Fraction`."""
        return _each(_exact, array)

    def constant(self, value: float) -> Any:
        """An integer where it is one, else the fraction that the double is."""
        fraction = Fraction(value)
        return int(fraction) if fraction.denominator == 1 else fraction

    def divide(self, array: Array, by: Any) -> Array:
        """Quotients as fractions."""
        quotient = np.frompyfunc(Fraction, 2, 1)
        return np.asarray(quotient(array, by), dtype=object)

    def sqrt(self, array: Array) -> Array:
        """Rational roots.

        Raises:
            ReferenceInputError: if a root is not rational.
        """
        return _each(_rational_root, array)

    def function(self, name: Transcendental) -> Callable[[Array], Array]:
        """There is none.

        Raises:
            ReferenceInputError: always.
        """
        raise ReferenceInputError(
            f"the activation needs {name}, whose values are no fractions; give x and weights as mpmath.mpf or as floats"
        )


class Multiprecision:
    """mpmath's numbers, computed in the precision of the context they come from.

    Args:
        context: the mpmath context of the numbers given.
    """

    def __init__(self, context: Any) -> None:
        self.context = context

    def lift(self, array: Array) -> Array:
        """Integers and floats become mpf exactly, fractions at the context's precision."""
        return _each(self.context.convert, _each(_plain, array))

    def constant(self, value: float) -> Any:
        """The double as mpf."""
        return self.context.mpf(value)

    def divide(self, array: Array, by: Any) -> Array:
        """Quotients at the context's precision."""
        return np.asarray(array / by, dtype=object)

    def sqrt(self, array: Array) -> Array:
        """Roots at the context's precision."""
        return _each(self.context.sqrt, array)

    def function(self, name: Transcendental) -> Callable[[Array], Array]:
        """The context's function."""
        function = getattr(self.context, name)
        return lambda array: _each(function, array)


def number_type(arrays: Mapping[str, Array]) -> NumberType:
    """The one number type in which to compute with all the arrays.

    mpmath's numbers take everything along, floats take integers along; fractions and floats do not
    mix, because each would silently become the other.

    >>> type(number_type({"x": np.array([1, 2])})).__name__
    'Exact'

    Args:
        arrays: what is computed with, by the names to use in errors.

    Raises:
        ReferenceInputError: if an array holds anything else, or fractions meet floats.
    """
    first: dict[str, tuple[str, Any]] = {}
    for name, array in arrays.items():
        for kind, witness in _kinds(name, array):
            first.setdefault(kind, (name, witness))
    if "mpf" in first:
        return Multiprecision(first["mpf"][1].context)
    if "floats" in first and "fractions" in first:
        raise ReferenceInputError(
            f"{first['fractions'][0]} holds fractions but {first['floats'][0]} holds floats; give "
            "all in one number type (fractions.Fraction takes a float exactly)"
        )
    if "floats" in first:
        precisions = [array.dtype for array in arrays.values() if array.dtype.kind == "f"]
        return Floats(np.result_type(*precisions) if precisions else np.dtype(np.float64))
    return Exact()


def _kinds(name: str, array: Array) -> Iterator[tuple[str, Any]]:
    """What an array holds, each kind with a number of that kind."""
    if array.dtype.kind in "iuf":
        yield "floats" if array.dtype.kind == "f" else "integers", None
    elif array.dtype.kind == "O":
        for value in array.flat:
            yield _kind(name, value), value
    else:
        raise _not_a_number(name, str(array.dtype))


def _kind(name: str, value: Any) -> str:
    if hasattr(value, "context") and hasattr(value, "_mpf_"):
        return "mpf"
    if isinstance(value, (float, np.floating)):
        return "floats"
    if isinstance(value, numbers.Integral) and not isinstance(value, (bool, np.bool_)):
        return "integers"
    if isinstance(value, numbers.Rational):
        return "fractions"
    raise _not_a_number(name, type(value).__name__)


def _not_a_number(name: str, what: str) -> ReferenceInputError:
    return ReferenceInputError(
        f"{name} holds {what}; the reference computes with floats, integers, fractions.Fraction and mpmath.mpf"
    )


def _each(function: Callable[[Any], Any], array: Array) -> Array:
    return np.asarray(np.frompyfunc(function, 1, 1)(array.astype(object)), dtype=object)


def _plain(value: Any) -> Any:
    """NumPy's scalars as Python's, which are the ones mpmath knows."""
    return value.item() if isinstance(value, np.generic) else value


def _exact(value: numbers.Rational) -> int | Fraction:
    if isinstance(value, numbers.Integral):
        return int(value)
    return Fraction(int(value.numerator), int(value.denominator))


def _rational_root(value: Any) -> Fraction:
    """In lowest terms, a root is rational just if numerator and denominator are squares."""
    square = Fraction(value)
    if square >= 0:
        root = Fraction(math.isqrt(square.numerator), math.isqrt(square.denominator))
        if root * root == square:
            return root
    raise ReferenceInputError(
        f"{square} has no rational root, and a norm over integers or fractions divides by the root "
        "of variance + eps; give x and weights as mpmath.mpf, or a variance that makes it a square"
    )
