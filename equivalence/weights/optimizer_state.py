"""The state of an optimiser in a torch file: numbered, so it says of no tensor whose it is.

Guarantee: it is converted only where the numbering is certain: the groups hold names, or there is one
group that numbers all parameters of the network in their order. What is remembered of a tensor moves
as the tensor does. Anything else is refused, for resuming from it would train other numbers.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch

from equivalence.weights.safetensors_file import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from equivalence.weights.plan import Group, Plan

    Remembered = dict[str, Mapping[str, Any]]


def is_optimizer(value: Mapping[Any, Any]) -> bool:
    """Whether this is what an optimiser's `state_dict()` returns."""
    groups, state = value.get("param_groups"), value.get("state")
    return (
        isinstance(groups, list)
        and isinstance(state, dict)
        and all(isinstance(group, dict) and isinstance(group.get("params"), list) for group in groups)
        and all(isinstance(entry, dict) for entry in state.values())
    )


def converted_optimizer(value: Mapping[str, Any], plan: Plan, source: Path) -> dict[str, Any]:
    """The optimiser's state as it belongs to the network in the other form.

    Args:
        value: what its `state_dict()` returned.
        plan: what becomes what.
        source: the file that it is from.

    Raises:
        CheckpointError: if it is not certain which tensor is which.
    """
    old, new = plan.orders()
    groups = value["param_groups"]
    names = _names(groups, old, source)
    remembered: Remembered = {name: value["state"].get(number, {}) for number, name in names.items()}
    _shaped(remembered, plan, source)
    group_of = {names[number]: i for i, group in enumerate(groups) for number in group["params"]}
    for group in plan.groups:
        if not (trained := [name for name in group.old if name in group_of]):
            continue
        if len(trained) < len(group.old) or len({group_of[name] for name in trained}) > 1:
            raise _uncertain(source, f"{trained[0]} and what it becomes one with are trained differently")
        home = group_of[trained[0]]
        entries = _moved({name: remembered.pop(name) for name in group.old}, group, source)
        group_of = {name: i for name, i in group_of.items() if name not in group.old} | dict.fromkeys(entries, home)
        remembered |= entries
    listed = [[name for name in new if group_of.get(name) == i] for i in range(len(groups))]
    numbers = {name: number for number, name in enumerate(name for part in listed for name in part)}
    return {
        **value,
        "state": {number: remembered[name] for name, number in numbers.items() if remembered[name]},
        "param_groups": [
            {**group, "params": [numbers[n] for n in part]} | ({"param_names": part} if "param_names" in group else {})
            for group, part in zip(groups, listed, strict=True)
        ],
    }


def _names(groups: list[Any], parameters: list[str], source: Path) -> dict[int, str]:
    """The parameters' names by their numbers."""
    numbers = [number for group in groups for number in group["params"]]
    named = [name for group in groups for name in group.get("param_names", ())]
    names = named or parameters if len(groups) == 1 else named
    if len(names) != len(numbers) or not set(names) <= set(parameters) or len(set(names)) < len(names):
        raise _uncertain(
            source, f"{len(groups)} groups of {len(numbers)} parameters, of {len(parameters)} in the network"
        )
    return dict(zip(numbers, names, strict=True))


def _shaped(remembered: Remembered, plan: Plan, source: Path) -> None:
    """What is remembered of a parameter has its shape, or is one number."""
    for name, entry in remembered.items():
        for key, value in entry.items():
            if isinstance(value, torch.Tensor) and value.dim() and tuple(value.shape) != plan.given[name]:
                raise _uncertain(source, f"{key} has shape {tuple(value.shape)}, but {name} has {plan.given[name]}")


def _moved(entries: Remembered, group: Group, source: Path) -> Remembered:
    moved: dict[str, dict[str, Any]] = {name: {} for name in group.new}
    for key in dict.fromkeys(key for entry in entries.values() for key in entry):
        values: list[Any] = [entry.get(key) for entry in entries.values()]
        if all(isinstance(value, torch.Tensor) and value.dim() for value in values):
            known = dict(zip(entries, values, strict=True))
            new: list[Any] = [tensor.clone() for _, tensor in group.moved(known.__getitem__)]
        elif all(value == values[0] for value in values):
            new = [copy.deepcopy(values[0]) for _ in group.new]  # each counts its own steps
        else:
            raise _uncertain(source, f"{key} of {group.old[0]} and what it becomes one with differ")
        for entry, value in zip(moved.values(), new, strict=True):
            entry[key] = value
    return dict(moved)


def _uncertain(source: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"{source} holds an optimiser whose state cannot be converted: {why}; save the weights without the optimiser, "
        "or build it from model.named_parameters() before saving"
    )
