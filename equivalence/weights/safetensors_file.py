"""Safetensors files, read and written tensor by tensor.

Guarantee: a file is believed only after its whole header was checked: tensors lie inside the file,
do not overlap, leave no gap and have the size that shape and dtype say. No more than what is asked
for is ever in memory; mapped files would count as memory, so nothing is mapped.
"""

from __future__ import annotations

import dataclasses
import json
import math
import mmap
import os
from typing import TYPE_CHECKING, BinaryIO

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "U16": torch.uint16, "U32": torch.uint32, "U64": torch.uint64, "C64": torch.complex64, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
_LONGEST_HEADER = 100_000_000
_CHUNK = 1 << 20
_SENT = 16 << 20


class CheckpointError(ValueError):
    """A checkpoint cannot be read, converted or written; says in one line which file, what and what to do."""

    def __init__(self, message: str) -> None:
        # Names come from files: what could end the line or steer a terminal is shown as an escape.
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in message))


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor of a file: dtype as the format names it, shape, and where its bytes are in the data."""

    dtype: str
    shape: tuple[int, ...]
    start: int = 0
    stop: int = 0

    @property
    def size(self) -> int:
        """Bytes that shape and dtype need."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


class Reader:
    """The tensors of a safetensors file.

    Args:
        path: of the file.

    Raises:
        CheckpointError: if it is not a whole, consistent safetensors file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[str, Entry] = {}
        self.metadata: dict[str, str] = {}
        with path.open("rb") as file:
            self._read_header(file, path.stat().st_size)

    def _read_header(self, file: BinaryIO, size: int) -> None:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _LONGEST_HEADER):
            raise CheckpointError(
                f"{self.path} is truncated or no safetensors file: its header is not all there; get it again"
            )
        self.offset = 8 + length
        try:
            header = json.loads(file.read(length))
            self.metadata = dict(header.pop("__metadata__", None) or {})
            "".join((*header, *self.metadata, *self.metadata.values())).encode()  # text, and nothing but text
            for name, said in header.items():
                start, stop = said["data_offsets"]
                self.entries[name] = Entry(said["dtype"], tuple(said["shape"]), start, stop)
            self._check(size - self.offset)
        except CheckpointError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            what = type(error).__name__
            raise CheckpointError(f"{self.path} is damaged: its header cannot be read ({what}); get it again") from None

    def _check(self, size: int) -> None:
        at = 0
        for name, entry in sorted(self.entries.items(), key=lambda item: (item[1].start, item[1].stop)):
            numbers = (*entry.shape, entry.start, entry.stop)
            if entry.dtype not in DTYPES:
                raise CheckpointError(
                    f"{self.path}: {name} has dtype {entry.dtype!r}, which is not known here; cast it"
                )
            if any(type(n) is not int or n < 0 for n in numbers) or entry.stop - entry.start != entry.size:
                raise CheckpointError(f"{self.path} is damaged: {name} has {entry.shape} but other bytes; get it again")
            if entry.start != at:
                raise CheckpointError(
                    f"{self.path} is damaged: {name} does not follow the tensor before it; get it again"
                )
            at = entry.stop
        if at != size:
            needed = f"{size} bytes of tensors where {at} should be"
            raise CheckpointError(f"{self.path} is truncated or damaged: {needed}; get it again")

    def tensor(self, file: BinaryIO, name: str) -> Tensor:
        """One tensor, in memory of its own."""
        entry = self.entries[name]
        tensor = fresh(entry.shape, DTYPES[entry.dtype])
        file.seek(self.offset + entry.start)
        if file.readinto(_bytes(tensor)) != entry.size:  # type: ignore[attr-defined]  # of a buffered reader
            raise CheckpointError(f"{self.path} is truncated in {name}; get it again")
        return tensor

    def chunks(self, file: BinaryIO, name: str) -> Iterator[memoryview]:
        """The bytes of one tensor, a few at a time; each chunk is good until the next."""
        entry = self.entries[name]
        file.seek(self.offset + entry.start)
        buffer = memoryview(bytearray(min(_CHUNK, entry.size)))
        left = entry.size
        while left:
            count = file.readinto(buffer[:left])  # type: ignore[attr-defined]  # of a buffered reader
            if not count:
                raise CheckpointError(f"{self.path} is truncated in {name}; get it again")
            left -= count
            yield buffer[:count]


def fresh(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor whose memory is given back with it: the heap would keep holes of its size."""
    size = math.prod(shape) * dtype.itemsize
    if size <= _CHUNK:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(mmap.mmap(-1, size), dtype=dtype).view(shape)


def _bytes(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor."""
    return tensor.view(-1).view(torch.uint8).numpy().data


class Writer:
    """A safetensors file that is filled tensor by tensor, in any order.

    Args:
        file: opened for writing.
        entries: dtype and shape of all tensors, in the order in which they lie in the file.
        metadata: what the file says of itself.
    """

    def __init__(self, file: BinaryIO, entries: Mapping[str, Entry], metadata: Mapping[str, str]) -> None:
        self.file = file
        self.starts: dict[str, int] = {}
        header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
        at = 0
        for name, entry in entries.items():
            self.starts[name], start, at = at, at, at + entry.size
            header[name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [start, at]}
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        self.offset = 8 + len(text)
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(self.offset + at)
        self.at = self.sent = 0

    def put_all(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Write tensors; none is held when the last is written."""
        for name, tensor in tensors:
            self.copy(name, [_bytes(tensor.contiguous())])

    def copy(self, name: str, chunks: Iterable[memoryview]) -> None:
        """Write the bytes of one tensor."""
        if self.at != self.starts[name]:  # moving would empty the buffer
            self.at = self.starts[name]
            self.file.seek(self.offset + self.at)
        for chunk in chunks:
            self.at += self.file.write(chunk)
        if abs(self.at - self.sent) > _SENT:
            self._send()

    def _send(self) -> None:
        """Let the disk begin with what there is; at the very end it would have to be waited for."""
        self.sent = self.at
        self.file.flush()
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
