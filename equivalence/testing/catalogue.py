"""The one place that knows what a planted fault is to this room.

Guarantee: strategies, fixture and command line see faults only through `Fault` and `catalogue`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import nn


class Fault(Protocol):
    """A mistake that can be planted in a copy of a module.

    Attributes:
        name: what it is called in a message.
    """

    @property
    def name(self) -> str:
        """What it is called in a message."""

    def applies(self, module: nn.Module) -> bool:
        """Whether it can be planted there."""

    def plant(self, module: nn.Module) -> nn.Module:
        """A copy of the module that has the fault; the module stays as it is."""


def catalogue() -> tuple[Fault, ...]:
    """Every fault there is, in the order of the catalogue."""
    return tuple(import_module("equivalence.verdict.faults").CATALOGUE)
