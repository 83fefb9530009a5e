"""Masks: what a comparison remembers, and where its convention at zero does not matter.

For a comparison with argument t, such as t > 0, the value is step(t) corrected by a multiple of zero(t), a random
function that stands for "t is zero". The companion of the mask is (generic, t): `generic` is the same without the
random function, with zero(t) = 1 where t is the zero expression and 0 elsewhere. It replaces the mask

* in a product with something that vanishes with t, where both give the same;
* in a backward pass: a derivative exactly at a kink is a convention, so gradients are compared at all other points.
  Where an argument is identically zero the kink is everywhere, and there `generic` is exactly what torch computes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from equivalence.arithmetic.field import origin
from equivalence.arithmetic.field.bound import Bound
from equivalence.arithmetic.field.tensor import FieldTensor

if TYPE_CHECKING:
    from fractions import Fraction

    from equivalence.arithmetic.field.probability import Books

COMPARISON = "comparison"


class Threshold(NamedTuple):
    """A mask says that a value lies above (or below) a number; at the number itself it may say either."""

    value: Tensor  # as it was
    at: Fraction
    above: bool

    def cover(self, other: Threshold, books: Books) -> bool:
        """Whether one of the two masks is true at every real value: [a, …) and (…, b] with a < b."""
        lower, upper = (self, other) if self.above else (other, self)
        if self.above == other.above or lower.at >= upper.at or self.value.shape != other.value.shape:
            return False
        books.query(self.value[0].numel(), ())
        return torch.equal(self.value, other.value)


def threshold_of(mask: object) -> Threshold | None:
    """The threshold of a comparison with a number, while the mask is what the comparison gave."""
    if not isinstance(mask, FieldTensor) or mask.companion is None or mask.known(COMPARISON) is None:
        return None
    threshold: Threshold | None = mask.companion.note
    return threshold


def in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1


def meets_its_zero(mask: FieldTensor, other: FieldTensor, parts: Tensor) -> Tensor:
    """The mask's parts as a factor of `other`, if it is a mask at all; else `parts`."""
    known = mask.known(COMPARISON)
    if known is None:
        return parts
    generic, argument = known
    if in_backward() or origin.vanishes_with(other, origin.Value(argument, Bound(), 0)):
        return mask.arithmetic.modulus.broadcastable(generic, parts.dim() - 1)
    return parts


def argument_snapshot(t: FieldTensor) -> Tensor:
    """The contents of the root of t, safe from later writes."""
    root = origin.root_of(t)
    if root.state.version != root.version:
        return t.parts.clone()
    t.arithmetic.books.query(0, (root.state,))
    return root.parts.clone()
