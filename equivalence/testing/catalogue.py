"""The one place that knows what a planted fault is to this room.

Guarantee: strategies and fixture see faults only through `Fault`, `catalogue` and `planted`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from equivalence.blocks.forms import Block

if TYPE_CHECKING:
    from torch import nn


class Fault(Protocol):
    """A mistake that can be planted in a copy of a block.

    Attributes:
        name: what it is called in a message.
        harmless: whether it only looks like a mistake.
    """

    @property
    def name(self) -> str:
        """What it is called in a message."""

    @property
    def harmless(self) -> bool:
        """Whether it only looks like a mistake."""

    def plant(self, block: Block) -> nn.Module:
        """A copy of the block that has the fault; the block stays as it is."""


def catalogue() -> tuple[Fault, ...]:
    """Every fault that is one, in the order of the catalogue."""
    faults = import_module("equivalence.verdict.faults").CATALOGUE.values()
    return tuple(fault for fault in faults if not fault.harmless)


def planted(fault: Fault, module: nn.Module) -> nn.Module | None:
    """A copy of the module that has the fault, or None where it does not apply."""
    if not isinstance(module, Block):
        return None
    try:
        return fault.plant(module)
    except import_module("equivalence.verdict.faults").DoesNotApply:
        return None
