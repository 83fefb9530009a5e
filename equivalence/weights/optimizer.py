"""What an optimiser remembers of a block, moved into another form.

Guarantee: momentum buffers and moments have their parameter's shape, so they move under the same
correspondence as the parameter; a number of steps belongs to every scalar of its parameter and
moves with them. Training that goes on in the other form takes the same steps, for every optimiser
that treats each scalar by itself (SGD, Adam, AdamW, RMSprop, Adagrad).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from equivalence.weights.correspondence import CorrespondenceError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn
    from torch.optim import Optimizer

    Trained = tuple[nn.Module, Optimizer]
    Counterparts = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


def moved_state(
    source: tuple[nn.Module, Optimizer],
    target: tuple[nn.Module, Optimizer],
    counterparts: Counterparts,
) -> dict[str, dict[str, Any]]:
    """The target optimiser's state, by the target's parameter names.

    Args:
        source, target: a block and the optimiser that steps its parameters.
        counterparts: arranges tensors named as in the source as the target names them.

    Raises:
        CorrespondenceError: if classes, settings or what is remembered do not fit.
    """
    (left, old), (right, new) = source, target
    if type(old) is not type(new):
        raise CorrespondenceError(
            f"optimisers are {type(old).__name__} and {type(new).__name__}, but must be one class"
        )
    _same_settings(source, target, counterparts)
    remembered = {name: old.state.get(p, {}) for name, p in left.named_parameters()}
    parameters = dict(right.named_parameters())
    state: dict[str, dict[str, Any]] = {name: {} for name in parameters}
    for key in {key for entries in remembered.values() for key in entries}:
        entries = {name: e[key] for name, e in remembered.items() if e.get(key) is not None}
        for name, value in _moved(key, entries, left, counterparts).items():
            state[name][key] = value.to(parameters[name]) if _is_shaped(value) else value
    return state


def moved_numbers(
    what: str,
    numbers: Mapping[str, float],
    tensors: Mapping[str, Tensor],
    counterparts: Counterparts,
) -> dict[str, float]:
    """Numbers that belong to whole tensors of the source, by the target's names.

    Raises:
        CorrespondenceError: if tensors that become one disagree.
    """
    if len(set(numbers.values())) == 1:
        # One number for all needs no data, only the names; copies of a counter are looked at.
        (number,) = set(numbers.values())
        kept = {n: _constant(tensors[n].shape, number) for n in numbers}
        return dict.fromkeys(counterparts(kept), float(number))
    spread = {
        name: torch.full(tensors[name].shape, float(number), dtype=torch.float64) for name, number in numbers.items()
    }
    moved = counterparts(spread)
    for name, values in moved.items():
        if values.min() != values.max():
            raise CorrespondenceError(
                f"{what} of {name} is one value, but branches have {sorted(set(numbers.values()))}"
            )
    return {name: values.flatten()[0].item() for name, values in moved.items()}


def _moved(key: str, entries: Mapping[str, Any], module: nn.Module, counterparts: Counterparts) -> dict[str, Any]:
    """One kind of entry, of all parameters: tensors of their shape, or numbers."""
    parameters = dict(module.named_parameters())
    if all(_is_shaped(e) and e.shape == parameters[name].shape for name, e in entries.items()):
        moved = counterparts(entries)
        return {n: v.clone(memory_format=torch.contiguous_format) for n, v in moved.items()}
    example = next(iter(entries.values()))
    if _is_shaped(example) or not isinstance(example, (torch.Tensor, int, float)):
        raise CorrespondenceError(
            f"{key} of {next(iter(entries))} belongs to no scalar of it, so the optimiser's state can not be moved"
        )
    numbers = moved_numbers(key, entries, parameters, counterparts)
    if isinstance(example, torch.Tensor):
        return {name: torch.tensor(n, dtype=example.dtype) for name, n in numbers.items()}
    return {name: type(example)(n) for name, n in numbers.items()}


def _constant(shape: torch.Size, number: float) -> Tensor:
    """One number in every place; with data only where it is a single one."""
    return torch.full(shape, float(number), dtype=torch.float64, device="meta" if shape else "cpu")


def _is_shaped(entry: Any) -> bool:
    return isinstance(entry, torch.Tensor) and entry.dim() > 0


def _same_settings(
    source: tuple[nn.Module, Optimizer],
    target: tuple[nn.Module, Optimizer],
    counterparts: Counterparts,
) -> None:
    """Corresponding parameters have the same learning rate, momentum and so on."""
    left, right = _settings(*source), _settings(*target)
    known: list[dict[str, Any]] = []
    for settings in left.values():
        if settings not in known:
            known.append(settings)
    labels = {name: known.index(settings) for name, settings in left.items()}
    parameters = dict(source[0].named_parameters())
    moved = moved_numbers("the optimiser's group", labels, parameters, counterparts)
    for name in [*moved, *sorted(right.keys() - moved.keys())]:
        needed = known[int(moved[name])] if name in moved else None
        if needed != right.get(name):
            raise CorrespondenceError(
                f"optimiser settings of {name} are {right.get(name)}, but the source has {needed}"
            )


def _settings(module: nn.Module, optimizer: Optimizer) -> dict[str, dict[str, Any]]:
    """Each parameter's optimiser settings; parameters that are not optimised are left out."""
    of_parameter = {
        parameter: {key: value for key, value in group.items() if key != "params"}
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    return {n: of_parameter[p] for n, p in module.named_parameters() if p in of_parameter}
