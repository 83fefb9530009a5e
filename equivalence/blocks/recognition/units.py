"""Which submodules compute which steps of a core, so that they can be replaced by another form's.

Guarantee: a unit is one call of one submodule that does nothing but consecutive steps of the core,
takes exactly what the step before gives, and holds no tensor that is not the core's. Replacing it by
anything with the same interface leaves the rest of the module, hooks included, as it was.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from equivalence.blocks.recognition.channels import Piece, data_of, join

if TYPE_CHECKING:
    from torch import nn

    from equivalence.blocks.recognition.assemble import Core
    from equivalence.blocks.recognition.core import Finder
    from equivalence.blocks.recognition.dataflow import Call, Node

# In the order in which a core takes them; activations have no weights but may be inside a unit.
SEQUENCE = (
    "reduce.conv",
    "reduce.norm",
    "reduce.activation",
    "transform.conv",
    "transform.norm",
    "transform.activation",
    "expand",
    "norm",
)


@dataclasses.dataclass(frozen=True)
class Unit:
    """A submodule that computes steps `first` up to, not including, `last` of `SEQUENCE`."""

    path: str
    first: int
    last: int

    @property
    def steps(self) -> tuple[str, ...]:
        """The names of its steps."""
        return SEQUENCE[self.first : self.last]


def units(finder: Finder, core: Core, module: nn.Module, owned: set[str]) -> tuple[Unit, ...]:
    """The smallest submodules that together hold all weighted steps of a core; none if some step is in none.

    Args:
        finder, core: what was found.
        module: the whole module that was traced.
        owned: names of the core's tensors in it.
    """
    borders = _borders(finder, core)
    calls = [
        unit
        for call in finder.trace.calls
        if call.first < call.last and (unit := _unit(finder, core, call, borders)) and _closed(module, call.path, owned)
    ]
    called = [call.path for call in finder.trace.calls]
    calls = [unit for unit in calls if called.count(unit.path) == 1]
    chosen: set[Unit] = set()
    for step, name in enumerate(SEQUENCE):
        if name in core.steps:
            holding = [unit for unit in calls if unit.first <= step < unit.last]
            if not holding:
                return ()
            chosen.add(min(holding, key=lambda unit: unit.last - unit.first))
    outer = {u for u in chosen if not any(_within(u.path, other.path) for other in chosen if other != u)}
    covered = [step for unit in outer for step in unit.steps if step in core.steps]
    complete = sorted(covered) == sorted(core.steps)
    return tuple(sorted(outer, key=lambda unit: unit.first)) if complete else ()


def _within(path: str, other: str) -> bool:
    return other == "" or path.startswith(f"{other}.")


def _closed(module: nn.Module, path: str, owned: set[str]) -> bool:
    """Whether a submodule holds none but the core's tensors."""
    part = module.get_submodule(path)
    names = [name for name, _ in part.named_parameters()] + [name for name, _ in part.named_buffers()]
    return bool(names) and all((f"{path}.{name}" if path else name) in owned for name in names)


def _borders(finder: Finder, core: Core) -> list[tuple[Piece, ...]]:
    """The value before every step and after the last, as the pieces it is made of."""
    channels = finder.channels

    def before(nodes: list[Node]) -> tuple[Piece, ...]:
        return tuple(join([piece for node in nodes for piece in channels.pieces(data_of(node))]))

    def after(nodes: list[Node]) -> tuple[Piece, ...]:
        return tuple(join([piece for node in nodes for piece in channels.pieces(node.outputs[0])]))

    steps = core.steps
    normed = "norm" in steps
    reduced, transformed = after(steps["reduce.conv"]), after(steps["transform.conv"])
    summed = before(steps["norm"]) if normed else tuple(channels.pieces(core.result))
    return [
        tuple(channels.pieces(core.source)),
        reduced,
        after(steps["reduce.norm"]) if normed else reduced,
        before(steps["transform.conv"]),
        transformed,
        after(steps["transform.norm"]) if normed else transformed,
        before(steps["expand"]),
        summed,
        tuple(channels.pieces(core.result)),
    ]


def _unit(finder: Finder, core: Core, call: Call, borders: list[tuple[Piece, ...]]) -> Unit | None:
    if call.received is None or call.returned is None:
        return None
    shapes = finder.trace.shapes
    if len(shapes[call.received]) < 2 or len(shapes[call.returned]) < 2:
        return None
    received = tuple(finder.channels.pieces(call.received))
    returned = tuple(finder.channels.pieces(call.returned))
    if received not in borders or returned not in borders:
        return None
    first = max(i for i, border in enumerate(borders) if border == received)
    last = max(i for i, border in enumerate(borders) if border == returned)
    has_weights = any(name in core.steps for name in SEQUENCE[first:last])
    return Unit(call.path, first, last) if has_weights else None
