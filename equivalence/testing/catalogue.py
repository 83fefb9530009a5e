"""The one place that knows what a planted fault is to this room.

Guarantee: strategies and fixture see faults only through `catalogue` and `planted`, which load
torch when they are called and not before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from equivalence.verdict.faults.fault import Fault


def catalogue() -> tuple[Fault, ...]:
    """Every fault that is one, in the order of the catalogue."""
    from equivalence.verdict.faults import CATALOGUE

    return tuple(fault for fault in CATALOGUE.values() if not fault.harmless)


def planted(fault: Fault, module: nn.Module) -> nn.Module | None:
    """A copy of the module that has the fault, or None where it does not apply."""
    from equivalence.blocks.forms import Block
    from equivalence.verdict.faults import DoesNotApply

    if not isinstance(module, Block):
        return None
    try:
        return fault.plant(module)
    except DoesNotApply:
        return None
