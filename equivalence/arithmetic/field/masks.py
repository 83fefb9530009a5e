"""Masks: what a comparison remembers, and where its convention at zero does not matter.

For a comparison with argument t, such as t > 0, the value is step(t) corrected by a multiple of zero(t), a random
function that stands for "t is zero". The companion of the mask is (generic, t): `generic` is the same without the
random function, with zero(t) = 1 where t is the zero expression and 0 elsewhere. It replaces the mask

* in a product with something that vanishes with t, where both give the same;
* in a backward pass: a derivative exactly at a kink is a convention, so gradients are compared at all other points.
  Where an argument is identically zero the kink is everywhere, and there `generic` is exactly what torch computes.
"""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor

from equivalence.arithmetic.field import origin
from equivalence.arithmetic.field.bound import Bound
from equivalence.arithmetic.field.tensor import FieldTensor

COMPARISON = "comparison"


class Threshold(NamedTuple):
    """A mask says that a value lies above (or below) a number; at the number itself it may say either."""

    value: Tensor  # as it was
    at: Fraction
    above: bool

    def cover(self, other: Threshold) -> bool:
        """Whether one of the two masks is true at every real value: [a, …) and (…, b] with a < b."""
        if self.above == other.above or not torch.equal(self.value, other.value):
            return False
        lower, upper = (self, other) if self.above else (other, self)
        return lower.at < upper.at


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
    return (root.parts if root.state.version == root.version else t.parts).clone()
