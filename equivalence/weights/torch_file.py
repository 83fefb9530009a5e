"""Torch files, read with `weights_only=True`: state dicts in them are converted, and what goes with those.

Guarantee: nothing in a file is ever run. State dicts are converted wherever dicts hold them, bare or
under keys, and so is the state of an optimiser if it is certain whose it is; else the file is
refused, because an optimiser left in the old form would fit the new weights no more. All else,
numbers and names among them, stays as it is.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

import torch

from equivalence.weights.naming import Naming, holds
from equivalence.weights.optimizer_state import converted_optimizer, is_optimizer
from equivalence.weights.safetensors_file import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

    from equivalence.weights.plan import Plan


def convert_torch(source: Path, file: BinaryIO, plan: Plan) -> None:
    """Write the torch file in the other form.

    Args:
        source: the file that is read.
        file: the new file, opened for writing.
        plan: what becomes what.

    Raises:
        CheckpointError: if it holds no state dict of the network, or one that does not fit.
    """
    loaded = _loaded(source)
    states: list[Mapping[str, Any]] = []
    result = _converted(loaded, plan, source, states)
    if not states:
        first = next(iter(plan.given))
        raise CheckpointError(
            f"{source} holds no state dict of this network: {first} is in none; give the network it is of"
        )
    if isinstance(result, dict) and all(state is not loaded for state in states):
        result["equivalence"] = plan.metadata()
    torch.save(result, file)


def _converted(value: Any, plan: Plan, source: Path, states: list[Mapping[str, Any]]) -> Any:
    """A value with every state dict inside converted; those are noted."""
    if not isinstance(value, Mapping):
        return value
    if holds((name for name, item in value.items() if isinstance(item, torch.Tensor)), plan):
        states.append(value)
        return _converted_state(value, plan, source)
    if is_optimizer(value):
        return converted_optimizer(value, plan, source)
    made: Any = type(value)  # a dict or an OrderedDict: nothing else is loaded
    return made((key, _converted(item, plan, source, states)) for key, item in value.items())


def _converted_state(value: Mapping[str, Any], plan: Plan, source: Path) -> Any:
    tensors = {name: item for name, item in value.items() if isinstance(item, torch.Tensor)}
    naming = Naming(plan, {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()}, source)
    state: dict[str, Any] = {}
    for name, item in value.items():
        if (group := naming.begins.get(name)) is not None:
            state.update((goal, part.clone()) for goal, part in group.moved(lambda old: tensors[old].detach()))
        elif name not in naming.moved:
            state[name] = item
    made: Any = type(value)
    result = made(state | naming.made)
    versions = getattr(value, "_metadata", None)
    if versions is not None:
        result._metadata = type(versions)({**versions, "equivalence": plan.metadata()})
    return result


def _loaded(source: Path) -> Any:
    try:
        if zipfile.is_zipfile(source):
            with zipfile.ZipFile(source) as archive:
                packed = [part.filename for part in archive.infolist() if part.compress_type != zipfile.ZIP_STORED]
                if packed:  # which may hold any number of bytes
                    raise CheckpointError(f"{source} has compressed parts ({packed[0]}); save it with torch.save")
                if damaged := archive.testzip():
                    raise CheckpointError(f"{source} is damaged: the checksum of {damaged} is wrong; get it again")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters of it is in the refusal
            return torch.load(source, map_location="cpu", weights_only=True)
    except (CheckpointError, MemoryError):
        raise
    except Exception as error:  # a damaged file can make the reader fail in any way
        raise _refusal(source, " ".join(str(error).split()) or type(error).__name__) from None


def _refusal(source: Path, said: str) -> CheckpointError:
    """What torch's reader said, in one line; it would rather have the file run."""
    if found := re.search(r"GLOBAL (\S+)", said):
        what = f"{found[1]} in it is no tensor and could run code, which is refused"
        return CheckpointError(f"{source} is not read: {what}; save a state dict of tensors alone")
    if found := re.search(r"Weights\w* error: (.*?)(?: Check the documentation|$)", said):
        what = f"what is in it ({found[1][:80]}) could run code, which is refused"
        return CheckpointError(
            f"{source} is damaged or no checkpoint of torch's: {what}; get it again, or save it with torch.save"
        )
    if "TorchScript" in said:
        return CheckpointError(f"{source} is a TorchScript program, which is refused; save its state dict")
    return CheckpointError(f"{source} is truncated, damaged or no checkpoint: {said[:120]}; get it again")
