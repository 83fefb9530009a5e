"""Checkpoint files from one form into another, without ever running what is in them.

Guarantee: the target is either the whole new file or what it was before; it is written beside its
place and renamed. Every scalar keeps its bits, so converting back gives the same bytes of every
tensor. Safetensors files are streamed tensor by tensor; torch files are read with
`weights_only=True`, always. What the network has is what the file must have, name by name.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
from typing import TYPE_CHECKING, BinaryIO

from equivalence.weights.correspondence import CorrespondenceError
from equivalence.weights.naming import Naming
from equivalence.weights.safetensors_file import DTYPES, CheckpointError, Entry, Reader, Writer
from equivalence.weights.torch_file import convert_torch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from equivalence.weights.plan import Plan

SAFETENSORS = ".safetensors"
TORCH = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".pkl")


def convert_checkpoint(source: Path, target: Path, plan: Plan) -> str:
    """Write the checkpoint in the other form; returns what was done, in one line.

    Args:
        source: a safetensors file (`.safetensors`) or a torch file (`.pth`, `.pt`, `.bin`, `.ckpt`, …).
        target: the new file, in the same format; a file that is there is replaced at the very end.
        plan: what `plan_of` returned.

    Raises:
        CheckpointError: with one line, if anything does not fit; then nothing was written.
    """
    streamed = _is_safetensors(source)
    if not source.exists():
        raise CheckpointError(f"{source} does not exist")
    if not source.is_file():
        raise CheckpointError(f"{source} is no file")
    if streamed != _is_safetensors(target):
        raise CheckpointError(f"{source.name} and {target.name} are of different formats; give both one suffix")
    with _whole_or_nothing(source, target) as file:
        (_convert_safetensors if streamed else convert_torch)(source, file, plan)
    to = plan.metadata()["converted_to"]
    return f"{len(plan.record.converted)} blocks of {source} converted to {to}: {target}"


def _is_safetensors(path: Path) -> bool:
    if path.name.endswith(".index.json"):
        raise CheckpointError(f"{path} is the index of a checkpoint in several files; merge them into one file first")
    if path.suffix not in (SAFETENSORS, *TORCH):
        known = ", ".join((SAFETENSORS, *TORCH))
        raise CheckpointError(f"{path} has suffix {path.suffix!r}, but must have one of {known}")
    return path.suffix == SAFETENSORS


@contextlib.contextmanager
def _whole_or_nothing(source: Path, target: Path) -> Iterator[BinaryIO]:
    """A file beside the target that takes its place when everything went well."""
    try:
        place = target.resolve()  # behind a link is the file that is meant
        if target.exists() and os.path.samefile(source, target):
            raise CheckpointError(f"the output is the input, {source}; name another file")
        if target.exists() and not place.is_file():
            raise CheckpointError(f"the output {target} is no file; name one")
        if not place.parent.is_dir():
            raise CheckpointError(f"folder {target.parent} does not exist; create it")
        draft = place.with_name(f".{place.name}.{os.getpid()}")
        try:
            with draft.open("xb", buffering=1 << 18) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if place.exists():
                shutil.copymode(place, draft)
            draft.replace(place)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        said = error.strerror or str(error)
        raise CheckpointError(f"cannot convert {source} to {target}: {said}; nothing was changed") from None
    except CorrespondenceError as error:
        raise CheckpointError(f"tensors of {source} do not fit: {error}") from None


def _convert_safetensors(source: Path, file: BinaryIO, plan: Plan) -> None:
    reader = Reader(source)
    naming = Naming(plan, {name: (e.shape, DTYPES[e.dtype]) for name, e in reader.entries.items()}, source)
    entries: dict[str, Entry] = {}
    for name, entry in reader.entries.items():
        entries |= {goal: Entry(entry.dtype, shape) for goal, shape in naming.becomes(name, entry.shape)}
    entries |= {name: Entry("I64", ()) for name in naming.made}
    writer = Writer(file, entries, {**reader.metadata, **plan.metadata()})
    with source.open("rb") as data:
        for name in reader.entries:
            if (group := naming.begins.get(name)) is not None:
                writer.put_all(group.moved(functools.partial(reader.tensor, data)))
            elif name not in naming.moved:
                writer.copy(name, reader.chunks(data, name))
        writer.put_all(naming.made.items())
