"""What is known of a value by construction: which values it vanishes with.

A mask such as x > 0 differs from step(x) only where x is zero. Multiplied by something that vanishes there the
difference is gone, which is why x · (x > 0) is relu(x). So a tensor may remember `root`, a value of which it is a
known non-zero constant multiple, and `divisors`, values it vanishes with (because it is a product with them, or a
sum of such products). Nothing is ever fitted: both come from the operations that made the tensor.

A remembered value is compared by identity or, after a view or a copy, by its residues, which is as good as every
other comparison in the field. It no longer counts once its storage was written to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from equivalence.arithmetic.field.probability import Books

MOST = 4  # divisors remembered; forgetting one loses a proof, never makes one


class Value(NamedTuple):
    """The contents of a tensor at one time."""

    parts: Tensor
    state: Any
    version: int

    def identical(self, other: Value) -> bool:
        """Whether both are one tensor, not written to since."""
        unwritten = self.state.version == self.version and other.state.version == other.version
        return unwritten and self.parts is other.parts

    def same(self, other: Value, books: Books) -> bool:
        """Whether both are the same expression; a comparison of residues enters the probability of error."""
        if self.identical(other):
            return True
        if self.state.version != self.version or other.state.version != other.version:
            return False
        a, b = self.parts, other.parts
        if a.shape != b.shape:
            return False
        books.query(a[0].numel(), (self.state, other.state))
        return torch.equal(a, b)


class Origin(NamedTuple):
    root: Value | None
    divisors: tuple[Value, ...]
    zero: bool = False  # the constant 0 vanishes with everything
    version: int = 0  # of the tensor that it describes


ZERO = Origin(None, (), zero=True)


def value_of(x: Any) -> Value:
    return Value(x.parts, x.state, x.state.version)


def current(x: Any) -> Origin | None:
    """The tensor's origin, unless it was written to since."""
    origin: Origin | None = x.origin
    return origin if origin is not None and origin.version == x.state.version else None


def root_of(x: Any) -> Value:
    origin = current(x)
    return value_of(x) if origin is None or origin.root is None else origin.root


def divisors_of(x: Any) -> tuple[Value, ...]:
    origin = current(x)
    return (value_of(x),) if origin is None else origin.divisors


def of_multiple(x: Any, factor_is_zero: bool) -> Origin:
    """The origin of a number times x; the root is among the divisors."""
    if factor_is_zero:
        return ZERO
    root, divisors = root_of(x), divisors_of(x)
    return Origin(root, divisors if any(v is root for v in divisors) else (root, *divisors)[:MOST])


def of_product(a: Any, b: Any) -> Origin:
    return Origin(None, (divisors_of(a) + divisors_of(b))[:MOST])


def of_sum(a: Any, b: Any) -> Origin | None:
    """A sum vanishes where both terms do."""
    first, second = current(a), current(b)
    if first is None and second is None:
        return None
    if first is not None and first.zero:
        return Origin(root_of(b), divisors_of(b))
    if second is not None and second.zero:
        return Origin(root_of(a), divisors_of(a))
    others, books = divisors_of(b), a.arithmetic.books
    # Of a plain term nothing is known but itself: whether a weight equals its gradient is not worth a query.
    plain = first is None or second is None
    common = tuple(v for v in divisors_of(a) if any(v.identical(w) if plain else v.same(w, books) for w in others))
    return Origin(None, common) if common else None


def vanishes_with(x: Any, value: Value) -> bool:
    origin = current(x)
    if origin is not None and origin.zero:
        return True
    books = x.arithmetic.books
    return value_of(x).same(value, books) or any(v.same(value, books) for v in divisors_of(x))
