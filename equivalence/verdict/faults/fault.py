"""What a fault is: a mistake that can be planted on purpose, to show that a check can fail.

Guarantee: planting returns a changed *copy*, so the block itself stays as it is; and a fault that would change nothing
in a block is never planted silently, it says why it does not apply. One definition serves every form.
"""

from __future__ import annotations

import dataclasses
import random
from typing import TYPE_CHECKING, Literal

import torch

from equivalence.verdict.faults.duplicate import duplicate

if TYPE_CHECKING:
    from collections.abc import Callable

    from equivalence.arithmetic.floating import Mode
    from equivalence.blocks.forms import Block

Group = Literal["slices", "forgotten state", "hyper-parameters", "structure", "precision", "training", "harmless"]
Stage = Literal[
    "reduced", "transformed", "aggregated", "normed", "output", "statistics", "parameter gradients", "input gradient",
    "nowhere",
]  # fmt: skip


class DoesNotApply(ValueError):
    """A fault has no meaning in this block or form; says why."""


@dataclasses.dataclass(frozen=True)
class Spot:
    """Where in a block a fault is planted.

    Attributes:
        branches: the branches that are touched, most important first; two of them where there are two.
        scalar: which scalar of a tensor, counted in the canonical arrangement and modulo its size.
    """

    branches: tuple[int, ...]
    scalar: int = 0

    @classmethod
    def drawn(cls, cardinality: int, seed: int) -> Spot:
        """A random spot in a block of so many branches.

        >>> Spot.drawn(cardinality=8, seed=0)
        Spot(branches=(6, 7), scalar=1806341205)
        """
        generator = random.Random(seed)
        chosen = generator.sample(range(cardinality), min(2, cardinality))
        return cls(tuple(chosen), generator.randrange(2**31))

    @property
    def branch(self) -> int:
        """The one branch that a fault in a single branch touches."""
        return self.branches[0]

    @property
    def pair(self) -> tuple[int, int]:
        """Two branches.

        Raises:
            DoesNotApply: if there is only one.
        """
        if len(self.branches) < 2:
            raise DoesNotApply("it takes two branches, and there is one")
        return self.branches[0], self.branches[1]


@dataclasses.dataclass(frozen=True)
class Fault:
    """One mistake that people make with these blocks, or a harmless change that looks like one.

    >>> import torch
    >>> from equivalence import BlockSpec, Grouped
    >>> from equivalence.verdict.faults import fault_named
    >>> block = Grouped(BlockSpec(in_channels=8, cardinality=2, width=3))
    >>> planted = fault_named("kernel-flipped").plant(block)
    >>> torch.equal(planted.transform.conv.weight.flip(-1, -2), block.transform.conv.weight)
    True

    Attributes:
        name: what it is called on the command line.
        sentence: what is wrong, in one sentence without a full stop.
        group: the kind of mistake.
        stage: the first stage at which it shows.
        mode: "eval", or "train" if only training shows it.
        change: makes the mistake in a block that it may change; returns another block if it has to.
    """

    name: str
    sentence: str
    group: Group
    stage: Stage
    mode: Mode
    change: Callable[[Block, Spot], Block | None]

    @property
    def harmless(self) -> bool:
        """Whether the changed block is still the same function."""
        return self.group == "harmless"

    def plant(self, block: Block, *, spot: Spot | None = None, seed: int = 0) -> Block:
        """A copy of the block with the mistake in it.

        Args:
            block: any form of any spec; it stays as it is.
            spot: where, if not at random.
            seed: of the random spot.

        Raises:
            DoesNotApply: if the block or its form has nothing that the fault could change.
        """
        spot = Spot.drawn(block.spec.cardinality, seed) if spot is None else spot
        copied = duplicate(block)
        with torch.no_grad():
            return self.change(copied, spot) or copied
