"""Checkpoint files from one form into another, without ever running what is in them.

Guarantee: the target is either the whole new file or what it was before; it is written beside its
place and renamed. Every scalar keeps its bits, so converting back gives the same bytes of every
tensor. Safetensors files are streamed tensor by tensor; torch files are read with
`weights_only=True`, always. What the network has is what the file must have, name by name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import zipfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

import torch

import equivalence
from equivalence.weights.convert import convert_network
from equivalence.weights.correspondence import ROWS, CorrespondenceError
from equivalence.weights.safetensors_file import CheckpointError, Entry, Reader, Writer
from equivalence.weights.sides import tensors_of
from equivalence.weights.transfer import TransferError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from torch import Tensor, nn

    from equivalence.weights.convert import Rewritten
    from equivalence.weights.correspondence import Column, Row

Shapes = dict[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which tensors become which.

    Attributes:
        blocks: where each block's tensors are in the network as written, and in the other form.
        given, wanted: names and shapes of all tensors of the file that is read, and of the new one.
        back: whether the file that is read has the other form.
        form: the other form.
    """

    blocks: tuple[Rewritten, ...]
    given: Shapes
    wanted: Shapes
    back: bool
    form: str

    def groups(self) -> Iterator[tuple[list[str], list[str], Callable[[list[Tensor]], list[Tensor]]]]:
        """Names that are read together, names that they become, and how."""
        for block in self.blocks:
            source, target = (block.target, block.source) if self.back else (block.source, block.target)
            cardinality = block.source.spec.cardinality
            for row in ROWS:
                old, new = row.names(source.column, cardinality), row.names(target.column, cardinality)
                if not old or not new or old[0] not in self.given:
                    continue

                yield old, new, functools.partial(_moved, row, source.column, target.column, cardinality)

    def metadata(self) -> dict[str, str]:
        """What the new file says of how it was made."""
        there, back = ("the network's own form", self.form) if not self.back else (self.form, "the network's own form")
        return {
            "converted_by": f"equivalence {equivalence.__version__}",
            "converted_from": there,
            "converted_to": back,
            "converted_blocks": str(len(self.blocks)),
        }


def plan_of(model: nn.Module, form: str, *, back: bool = False) -> Plan:
    """What converting a checkpoint of a network takes.

    Args:
        model: the network, with or without data.
        form: "per-branch", "concatenated" or "grouped".
        back: whether the checkpoint is in that form and goes back to the network's own.

    Raises:
        TransferError: if the network has no block that can be rewritten.
    """
    converted, record = convert_network(model, form)
    if not record.converted:
        raise TransferError(f"nothing to convert: {record.skipped[0][0]}: {record.skipped[0][1]}")
    shapes = [{name: tuple(t.shape) for name, t in _state(m).items()} for m in (model, converted)]
    given, wanted = reversed(shapes) if back else shapes
    return Plan(record.converted, given, wanted, back, form)


def convert_checkpoint(source: Path, target: Path, plan: Plan) -> str:
    """Write the checkpoint in the other form; returns what was done, in one line.

    Args:
        source: a safetensors file (`.safetensors`) or a torch file.
        target: the new file, in the same format; a file that is there is replaced at the very end.
        plan: what `plan_of` returned.

    Raises:
        CheckpointError: with one line, if anything does not fit; then nothing was written.
    """
    if not source.is_file():
        raise CheckpointError(f"{source} is no file")
    if target.exists() and os.path.samefile(source, target):
        raise CheckpointError(f"the output is the input, {source}; name another file")
    if not target.parent.is_dir():
        raise CheckpointError(f"folder {target.parent} does not exist; create it")
    streamed = source.suffix == ".safetensors"
    if streamed != (target.suffix == ".safetensors"):
        raise CheckpointError(f"{source.name} and {target.name} are of different formats; give both one suffix")
    with _whole_or_nothing(target) as file:
        (_convert_safetensors if streamed else _convert_torch)(source, file, plan)
    to = plan.metadata()["converted_to"]
    return f"{len(plan.blocks)} blocks of {source} converted to {to}: {target}"


@contextlib.contextmanager
def _whole_or_nothing(target: Path) -> Iterator[BinaryIO]:
    """A file beside the target that takes its place when everything went well."""
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
    except OSError as error:
        raise CheckpointError(f"cannot write {target}: {error.strerror or error}; nothing was changed") from None
    except CorrespondenceError as error:
        raise CheckpointError(f"tensors do not fit: {error}") from None
    finally:
        draft.unlink(missing_ok=True)


def _convert_safetensors(source: Path, file: BinaryIO, plan: Plan) -> None:
    reader = Reader(source)
    prefix = _prefix(list(reader.entries), plan.given, source)
    _fits({name: entry.shape for name, entry in reader.entries.items()}, prefix, plan, source)
    groups = {old[0]: (old, new, move) for old, new, move in plan.groups()}
    grouped = {name for old, _, _ in groups.values() for name in old}
    entries: dict[str, Entry] = {}
    for name, entry in reader.entries.items():
        own = name.removeprefix(prefix)
        if own in groups and name.startswith(prefix):
            for goal in groups[own][1]:
                entries[prefix + goal] = Entry(entry.dtype, plan.wanted[goal])
        elif own not in grouped:
            entries[name] = entry
    writer = Writer(file, entries, {**reader.metadata, **plan.metadata()})
    with source.open("rb") as data:
        for name in reader.entries:
            own = name.removeprefix(prefix)
            if own in groups:
                old, new, move = groups[own]
                moved = move([reader.tensor(data, prefix + part) for part in old])
                for goal, tensor in zip(new, moved, strict=True):
                    writer.put(prefix + goal, tensor)
            elif own not in grouped:
                writer.copy(name, reader.chunks(data, name))


def _convert_torch(source: Path, file: BinaryIO, plan: Plan) -> None:
    loaded = _loaded(source)
    count = 0

    def converted(value: Any) -> Any:
        nonlocal count
        if not isinstance(value, Mapping):
            return value
        tensors = {name: t for name, t in value.items() if isinstance(name, str) and isinstance(t, torch.Tensor)}
        if len(tensors) < len(value) or not tensors:
            made: Any = type(value)  # a dict or an OrderedDict: nothing else is loaded
            return made((key, converted(item)) for key, item in value.items())
        if not any(name.endswith(key) for key in list(plan.given)[:1] for name in tensors):
            return value
        count += 1
        return _converted_state(value, tensors, plan, source)

    result = converted(loaded)
    if not count:
        raise CheckpointError(f"{source} holds no state dict of this network: {next(iter(plan.given))} is in none")
    if isinstance(result, dict) and not all(isinstance(v, torch.Tensor) for v in result.values()):
        result["equivalence"] = plan.metadata()
    torch.save(result, file)


def _converted_state(value: Mapping[str, Any], tensors: Mapping[str, Tensor], plan: Plan, source: Path) -> Any:
    prefix = _prefix(list(tensors), plan.given, source)
    _fits({name: tuple(t.shape) for name, t in tensors.items()}, prefix, plan, source)
    groups = {old[0]: (old, new, move) for old, new, move in plan.groups()}
    grouped = {name for old, _, _ in groups.values() for name in old}
    state: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        own = name.removeprefix(prefix)
        if own in groups:
            old, new, move = groups[own]
            moved = move([tensors[prefix + part].detach() for part in old])
            state.update((prefix + goal, part.clone()) for goal, part in zip(new, moved, strict=True))
        elif own not in grouped:
            state[name] = tensor
    made: Any = type(value)
    result = made(state)
    versions = getattr(value, "_metadata", None)
    if versions is not None:
        result._metadata = type(versions)({**versions, "equivalence": plan.metadata()})
    return result


def _loaded(source: Path) -> Any:
    """What is in a torch file; nothing in it is ever run."""
    try:
        if zipfile.is_zipfile(source):
            with zipfile.ZipFile(source) as archive:
                if damaged := archive.testzip():
                    raise CheckpointError(f"{source} is damaged: the checksum of {damaged} is wrong")
        return torch.load(source, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged file can make the reader fail in any way
        said = " ".join(str(error).split())
        if "weights_only" in said.lower() or "unsupported" in said.lower() or "global" in said.lower():
            what = said.split("GLOBAL ")[-1].split(" ")[0] if "GLOBAL " in said else "objects that are no tensors"
            raise CheckpointError(f"{source} wants to run code ({what}), which is refused; save tensors only") from None
        raise CheckpointError(f"{source} is truncated or damaged: {said[:120] or type(error).__name__}") from None


def _prefix(names: list[str], given: Shapes, source: Path) -> str:
    """What stands before every name, such as "module."."""
    first = next(iter(given))
    found = [name.removesuffix(first) for name in names if name == first or name.endswith(f".{first}")]
    if not found:
        raise CheckpointError(f"{source} lacks {first}; it is no checkpoint of this network in the form it should have")
    return min(found, key=len)


def _fits(shapes: Mapping[str, tuple[int, ...]], prefix: str, plan: Plan, source: Path) -> None:
    """The file has exactly the network's tensors, of the network's shapes."""
    missing = [name for name in plan.given if prefix + name not in shapes]
    if missing:
        raise CheckpointError(f"{source} lacks {missing[0]} and {len(missing) - 1} more tensors of the network")
    known = {prefix + name for name in plan.given}
    unexpected = [name for name in shapes if name not in known]
    if unexpected:
        raise CheckpointError(
            f"{source} has {unexpected[0]} and {len(unexpected) - 1} more tensors that the network has not"
        )
    for name, shape in plan.given.items():
        if shapes[prefix + name] != shape:
            raise CheckpointError(f"{source}: {prefix + name} has shape {shapes[prefix + name]}, but needs {shape}")


def _moved(row: Row, source: Column, target: Column, cardinality: int, tensors: list[Tensor]) -> list[Tensor]:
    return list(row.scatter(target, row.gather(source, tensors, cardinality), cardinality))


def _state(module: nn.Module) -> dict[str, Tensor]:
    """What the module saves."""
    saved = module.state_dict().keys()
    return {name: tensor for name, tensor in tensors_of(module) if name in saved}
