"""The names in one file, matched with those of a plan: what stands before them, and whether all are there.

Guarantee: a naming exists only if the file has exactly the tensors that the plan needs, of the
shapes and kinds that it needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from equivalence.weights.safetensors_file import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    import torch
    from torch import Tensor

    from equivalence.weights.plan import Group, Plan

    Kinds = Mapping[str, tuple[tuple[int, ...], torch.dtype]]


class Naming:
    """A plan in the names of a file.

    Attributes:
        prefix: what stands before every name, such as "module.".
        begins: the group that a tensor is the first of.
        moved: the names of all tensors that are in groups.
        made: tensors that nothing of the file becomes.

    Args:
        plan: for the network.
        tensors: shape and dtype of all tensors of the file.
        source: the file.

    Raises:
        CheckpointError: if tensors are missing, or are more, or of other shapes.
    """

    def __init__(self, plan: Plan, tensors: Kinds, source: Path) -> None:
        self.plan = plan
        self.prefix = _prefix(tensors, plan, source)
        _fits(tensors, self.prefix, plan, source)
        self.begins: dict[str, Group] = {}
        self.moved: set[str] = set()
        self.made: dict[str, Tensor] = {}
        for group in plan.groups:
            named = group.under(self.prefix)
            self.moved.update(named.old)
            if named.old:
                self.begins[named.old[0]] = named
            else:
                self.made.update(named.counters())

    def becomes(self, name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes in the new file, for the first tensor of every group and for any that is in none."""
        if name not in self.moved:
            yield name, shape
        elif name in self.begins:
            for goal in self.begins[name].new:
                yield goal, self.plan.wanted[goal.removeprefix(self.prefix)]


def holds(names: Iterable[object], plan: Plan) -> bool:
    """Whether names look like those of the plan's network."""
    first = next(iter(plan.given))
    return any(isinstance(name, str) and (name == first or name.endswith(f".{first}")) for name in names)


def _prefix(names: Iterable[str], plan: Plan, source: Path) -> str:
    first = next(iter(plan.given))
    found = [name.removesuffix(first) for name in names if holds([name], plan)]
    if not found:
        raise CheckpointError(
            f"{source} lacks {first}; it is of another network, or another form of it: see --model, --to, --back"
        )
    return min(found, key=len)


def _fits(tensors: Kinds, prefix: str, plan: Plan, source: Path) -> None:
    missing = [name for name in plan.given if prefix + name not in tensors]
    if missing:
        more = f" and {len(missing) - 1} more tensors" if missing[1:] else ""
        raise CheckpointError(f"{source} lacks {prefix}{missing[0]}{more} of the network{_hint(tensors, prefix, plan)}")
    known = {prefix + name for name in plan.given}
    unexpected = [name for name in tensors if name not in known]
    if unexpected:
        more = f" and {len(unexpected) - 1} more tensors" if unexpected[1:] else ""
        raise CheckpointError(f"{source} has {unexpected[0]}{more} that the network has not; remove them")
    weights = {name for group in plan.groups for name in group.old}
    for name, needed in plan.given.items():
        shape, dtype = tensors[prefix + name]
        if shape != needed:
            raise CheckpointError(
                f"{source}: {prefix + name} has shape {shape}, but needs {needed}: give the network it is of"
            )
        if shape and not dtype.is_floating_point and name in weights:
            raise CheckpointError(
                f"{source}: {prefix + name} has {dtype}, but needs a floating-point dtype: get it again"
            )


def _hint(tensors: Iterable[str], prefix: str, plan: Plan) -> str:
    """What may be the matter, where the file is one of the network in its other form."""
    if all(prefix + name in tensors for name in plan.wanted):
        return "; it has the form that it should get" + ("" if plan.back else ": give --back to convert it back")
    return "; give the network that it is of"
