"""What converting a network does, found before anything is done.

Guarantee: nothing is built. A block is rewritten only if the code around it goes on as before: hooks,
second names of tensors and functions that refer to its modules would be lost in silence, so a block
that has any is left as it is, with the reason.
"""

from __future__ import annotations

import dataclasses
from types import FunctionType
from typing import TYPE_CHECKING

import torch
from torch import nn

from equivalence.blocks.forms import FORMS
from equivalence.weights.correspondence import column_of
from equivalence.weights.renewal import hooked_inside
from equivalence.weights.sides import Located, across, tensors_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from equivalence.blocks.place import Place
    from equivalence.blocks.recognize import Found, RecognizedBlock
    from equivalence.blocks.spec import BlockSpec

LOST = "hooks of {} would be lost; remove them, and register them again on the result"


@dataclasses.dataclass(frozen=True)
class Rewritten:
    """A block of a network that is in another form now.

    Attributes:
        source, target: where its tensors were, and where they are.
    """

    source: Located
    target: Located


@dataclasses.dataclass(frozen=True)
class ConversionRecord:
    """What a conversion did; printed, one line for each block.

    Attributes:
        form: the form that was asked for.
        converted: the blocks that were rewritten.
        skipped: path and reason of what was left as it is.
    """

    form: str
    converted: tuple[Rewritten, ...]
    skipped: tuple[tuple[str, str], ...]

    def moved(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of the network as the converted one names and arranges them.

        Args:
            tensors: its parameters and buffers by name, or others of their shapes.
        """
        left = dict(tensors)
        result: dict[str, Tensor] = {}
        for block in self.converted:
            own = {name: left.pop(name) for name in block.source.names if name in left}
            result |= across(own, block.source, block.target)
        return left | result

    def __str__(self) -> str:
        head = f"{len(self.converted)} blocks converted to {self.form}, {len(self.skipped)} left as they are"
        done = [f"  {r.source.path or 'the module'}: {r.source.spec.template} → {self.form}" for r in self.converted]
        left = [f"  {path or 'the module'}: left, {reason}" for path, reason in self.skipped]
        return "\n".join([head, *done, *left])


def planned(module: nn.Module, found: Found, form: str) -> ConversionRecord:
    """What `rewrite` does, without doing it."""
    converted: list[Rewritten] = []
    skipped = [(refusal.place, refusal.reason) for refusal in found.refused]
    aliases, captured = _aliases(module), _captured(module)
    for block in found.blocks:
        path = path_of(block, module)
        target = _column(block, path, form)
        # Where the shortcut stays as it is, its tensors stay where they are.
        source = {row: place.inside(path) for row, place in block.places.items() if row in target}
        located = Located(path, block.spec, source, block.plain, block.reduce_stride)
        if id(block.module) in captured:
            skipped.append((path, "a function that is an attribute refers to it, and would in any copy"))
        elif reason := _obstacle(module, block, located, form, aliases):
            skipped.append((path, reason))
        else:
            converted.append(Rewritten(located, dataclasses.replace(located, column=target)))
    return ConversionRecord(form, tuple(converted), tuple(skipped))


def _obstacle(
    module: nn.Module, block: RecognizedBlock, located: Located, form: str, aliases: Mapping[str, str]
) -> str | None:
    """Why a block is left as it is, if it is."""
    if is_in(block, form):
        return f"it is {form} already"
    if not located.column:
        return "its steps are no submodules that could be replaced, and more is around them"
    if tied := next((name for name in located.names if name in aliases), None):
        return f"{tied} is {aliases[tied]} too, which would be tied to it no more"
    for path in [joined(located.path, unit.path) for unit in block.units] or [located.path]:
        if hooked := hooked_inside(module.get_submodule(path)):
            return LOST.format(joined(path, hooked))
    return None


def _aliases(module: nn.Module) -> dict[str, str]:
    """Another name of every tensor that has several."""
    names: dict[int, list[str]] = {}
    for held in (module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False)):
        for name, tensor in held:
            names.setdefault(id(tensor), []).append(name)
    return {name: next(n for n in same if n != name) for same in names.values() if len(same) > 1 for name in same}


def _captured(module: nn.Module) -> set[int]:
    """The modules that plain functions among the attributes refer to: copying those copies nothing."""
    functions = [value for part in module.modules() for value in vars(part).values() if isinstance(value, FunctionType)]
    cells = [cell.cell_contents for function in functions for cell in function.__closure__ or ()]
    return {id(part) for held in cells if isinstance(held, nn.Module) for part in held.modules()}


def path_of(block: RecognizedBlock, module: nn.Module) -> str:
    """Where a block is in a network, which may be the block."""
    return "" if block.module is module else block.path


def is_in(block: RecognizedBlock, form: str) -> bool:
    """Whether a block's tensors are cut as the form cuts them."""
    column = column_of(form)
    return all(place.per_branch == column[row].per_branch for row, place in block.places.items())


def _column(block: RecognizedBlock, path: str, form: str) -> dict[str, Place]:
    """The column of these parts together, named from the network; nothing if there are none."""
    column = kept(block.spec, form)
    if not block.units:
        return {row: place.inside(path) for row, place in column.items()} if block.plain else {}
    homes = {step: joined(path, unit.path) for unit in block.units for step in unit.steps}
    steps = {row: row.rpartition(".")[0] for row in column}
    return {row: place.inside(homes[steps[row]]) for row, place in column.items() if steps[row] in homes}


def kept(spec: BlockSpec, form: str) -> dict[str, Place]:
    """A form's column of the correspondence, as far as a block of the spec has tensors."""
    with torch.device("meta"):
        held = {name for name, _ in tensors_of(FORMS["grouped"](spec))}
    rows = {row for row, place in column_of("grouped").items() if place.path in held}
    return {row: place for row, place in column_of(form).items() if row in rows}


def joined(path: str, name: str) -> str:
    """The path of a submodule's submodule."""
    return f"{path}.{name}" if path and name else path or name
