"""How large the polynomial behind a tensor can be: what the probability of error is computed from.

Every element of a tensor in the field stands for a polynomial over the rationals in the random variables of the
run (inputs, random weights, values of random functions). A `Bound` holds, for all elements together,

* `degree`: at least the total degree,
* `high`: at least log2 of the L1 norm of the coefficients,
* `low` and `denominator`: every coefficient is an integer multiple of 2^low / denominator (odd denominator),

so that clearing denominators leaves integer coefficients below 2^bits, bits = high - low + log2(denominator).
The rules are those of sums (L1 norms add, units have a common unit) and products (all four add up).

One Bound belongs to one storage: views share it, writing in place joins the writer's bound into it and raises
`version`, so that facts remembered about the old contents can be seen to be stale.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fractions import Fraction


class Bound:
    __slots__ = ("degree", "denominator", "high", "low", "version")

    def __init__(self, degree: int = 0, high: float = 0.0, low: float = 0.0, denominator: int = 1) -> None:
        self.degree = degree
        self.high = high
        self.low = low
        self.denominator = denominator
        self.version = 0

    @property
    def bits(self) -> float:
        return self.high - self.low + math.log2(self.denominator)

    def copy(self) -> Bound:
        """The same size for another storage."""
        return Bound(self.degree, self.high, self.low, self.denominator)

    def __add__(self, other: Bound) -> Bound:
        a, b = self.high, other.high
        gap = a - b
        high = (a if gap > 0 else b) + (math.log2(1.0 + 2.0 ** -abs(gap)) if -60 < gap < 60 else 2.0**-59)
        d, e = self.denominator, other.denominator
        return Bound(
            self.degree if self.degree > other.degree else other.degree,
            high,
            self.low if self.low < other.low else other.low,
            d if d == e else math.lcm(d, e),
        )

    def __mul__(self, other: Bound) -> Bound:
        return Bound(
            self.degree + other.degree,
            self.high + other.high,
            self.low + other.low,
            self.denominator * other.denominator,
        )

    def __pow__(self, exponent: int) -> Bound:
        return Bound(
            self.degree * exponent,
            self.high * exponent,
            self.low * exponent,
            self.denominator**exponent,
        )

    def summed(self, terms: int) -> Bound:
        """The bound of a sum of so many elements."""
        high = self.high + math.log2(terms) if terms > 1 else self.high
        return Bound(self.degree, high, self.low, self.denominator)

    def union(self, other: Bound) -> Bound:
        """The bound of a tensor holding elements of both."""
        return Bound(
            max(self.degree, other.degree),
            max(self.high, other.high),
            min(self.low, other.low),
            math.lcm(self.denominator, other.denominator),
        )

    def absorb(self, other: Bound) -> None:
        """Elements of `other` were written into the storage that this bound belongs to."""
        self.degree = max(self.degree, other.degree)
        self.high = max(self.high, other.high)
        self.low = min(self.low, other.low)
        self.denominator = math.lcm(self.denominator, other.denominator)
        self.version += 1

    @staticmethod
    def of_number(value: Fraction) -> Bound:
        """A constant m · 2^e / d, m and d odd: unit 2^e / d, size |value|."""
        if not value:
            return Bound()
        numerator, denominator = abs(value.numerator), value.denominator
        twos = (numerator & -numerator).bit_length() - (denominator & -denominator).bit_length()
        odd = denominator // (denominator & -denominator)
        return Bound(0, math.log2(numerator) - math.log2(denominator), float(twos), odd)


VARIABLE = Bound(degree=1)  # a variable by itself: never mutated, copied by every operation on it
