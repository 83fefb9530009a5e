"""All faults, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from equivalence.verdict.faults import harmless, precision, settings, slices, state, structure, training

if TYPE_CHECKING:
    from equivalence.verdict.faults.fault import Fault

_ROOMS = (slices, state, settings, structure, precision, training, harmless)

CATALOGUE: dict[str, Fault] = {fault.name: fault for room in _ROOMS for fault in room.FAULTS}


def fault_named(name: str) -> Fault:
    """The fault of that name.

    >>> fault_named("relu6").sentence
    'ReLU6 stands where ReLU should'

    Raises:
        ValueError: if there is none; names those that there are.
    """
    if name not in CATALOGUE:
        raise ValueError(f"fault (={name!r}) must be one of {', '.join(CATALOGUE)}")
    return CATALOGUE[name]
