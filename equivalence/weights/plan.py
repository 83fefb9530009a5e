"""What converting a checkpoint of a network takes: which tensors become which, and their shapes.

Guarantee: a plan is made of names and shapes alone. Nothing of the network's size is built, neither
its weights nor its converted self, so a plan takes a few megabytes whatever the network.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING

import torch

import equivalence
from equivalence.blocks.forms import FORMS
from equivalence.blocks.recognition.errors import RecognitionError
from equivalence.blocks.recognize import find_blocks
from equivalence.weights.conversion import Rewritten, kept, planned
from equivalence.weights.convert import convert, only_block
from equivalence.weights.correspondence import ROWS, CorrespondenceError, column_of
from equivalence.weights.safetensors_file import fresh
from equivalence.weights.sides import side_of, tensors_of
from equivalence.weights.transfer import TransferError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn

    from equivalence.blocks.recognize import RecognizedBlock
    from equivalence.blocks.spec import BlockSpec
    from equivalence.weights.conversion import ConversionRecord
    from equivalence.weights.correspondence import Column, Row

Shapes = dict[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Group:
    """Tensors that are read together, and what they become; counters of batches may be in one form alone.

    Attributes:
        old, new: their names before and after, either of which may be none.
        row: what they are.
        source, target: the columns before and after.
        cardinality: number of branches.
        shape: of the first of the new ones.
    """

    old: list[str]
    new: list[str]
    row: Row
    source: Column
    target: Column
    cardinality: int
    shape: tuple[int, ...]

    def moved(self, read: Callable[[str], Tensor]) -> Iterator[tuple[str, Tensor]]:
        """The new tensors by name; where many become one, no more than that one and a part are in memory.

        Args:
            read: gives an old tensor.

        Raises:
            CorrespondenceError: if they do not fit.
        """
        if len(self.old) > 1 and len(self.new) == 1 and self.shape:
            yield self.new[0], self._joined(read)
        elif self.new:
            whole = self.row.gather(self.source, [read(name) for name in self.old], self.cardinality)
            yield from zip(self.new, self.row.scatter(self.target, whole, self.cardinality), strict=True)

    def under(self, prefix: str) -> Group:
        """The same tensors, named with something before."""
        old, new = ([prefix + name for name in names] for names in (self.old, self.new))
        return dataclasses.replace(self, old=old, new=new)

    def counters(self) -> dict[str, Tensor]:
        """The new tensors where there is no old one."""
        return {name: torch.zeros((), dtype=torch.long) for name in self.new}

    def _joined(self, read: Callable[[str], Tensor]) -> Tensor:
        """One new tensor of many: taken apart as the old ones are, it shows where each of them goes."""
        first = read(self.old[0])
        whole = fresh(self.shape, first.dtype)
        parts = self.row.scatter(self.source, self.row.gather(self.target, [whole], self.cardinality), self.cardinality)
        for name, part in zip(self.old, parts, strict=True):
            tensor = read(name)
            if (tensor.shape, tensor.dtype) != (part.shape, part.dtype):
                seen = f"{tuple(tensor.shape)} {tensor.dtype}"
                raise CorrespondenceError(f"{name} is {seen}, but needs {tuple(part.shape)} {part.dtype}")
            part.copy_(tensor)
        return whole


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which tensors become which.

    Attributes:
        record: the blocks that are converted, and what is left as it is.
        given, wanted: names and shapes of all tensors of the file that is read, and of the new one.
        back: whether the file that is read has the other form.
        orders: names of the trained tensors in the order of `parameters()`, before and after; made when called.
    """

    record: ConversionRecord
    given: Shapes
    wanted: Shapes
    back: bool
    orders: Callable[[], tuple[list[str], list[str]]]

    @functools.cached_property
    def groups(self) -> tuple[Group, ...]:
        """All tensors of the blocks."""
        return tuple(self._groups())

    def _groups(self) -> Iterator[Group]:
        for block in self.record.converted:
            source, target = (block.target, block.source) if self.back else (block.source, block.target)
            cardinality = block.source.spec.cardinality
            for row in ROWS:
                old = [name for name in row.names(source.column, cardinality) if name in self.given]
                new = [name for name in row.names(target.column, cardinality) if name in self.wanted]
                if old or new:
                    shape = self.wanted[new[0]] if new else ()
                    yield Group(old, new, row, source.column, target.column, cardinality, shape)

    def metadata(self) -> dict[str, str]:
        """What the new file says of how it was made."""
        there, back = "the network's own form", self.record.form
        return {
            "converted_by": f"equivalence {equivalence.__version__}",
            "converted_from": back if self.back else there,
            "converted_to": there if self.back else back,
            "converted_blocks": str(len(self.record.converted)),
        }


def plan_of(model: nn.Module, form: str, *, back: bool = False) -> Plan:
    """What converting a checkpoint of a network takes.

    >>> from equivalence import BlockSpec, Grouped
    >>> plan = plan_of(Grouped(BlockSpec(in_channels=4, cardinality=2, width=3)), "per-branch")
    >>> plan.given["expand.weight"], plan.wanted["branches.1.expand.weight"]
    ((4, 6, 1, 1), (4, 3, 1, 1))

    Args:
        model: the network, with or without data.
        form: "per-branch", "concatenated" or "grouped".
        back: whether the checkpoint is in that form and goes back to the network's own.

    Raises:
        TransferError: if the network has no block that can be rewritten.
    """
    if form not in FORMS:
        raise TransferError(f"form (={form!r}) must be one of {', '.join(FORMS)}")
    try:
        found = find_blocks(model)
    except RecognitionError as error:
        raise TransferError(f"nothing to convert: {error}") from None
    record = planned(model, found, form)
    if not record.converted:
        why = "{}: {}".format(*record.skipped[0]).removeprefix(": ") if record.skipped else found.refusal()
        raise TransferError(f"nothing to convert: {why}")
    if whole := only_block(model, found):
        record = dataclasses.replace(record, converted=(_as_form(whole, form),))
    saved = model.state_dict().keys()
    own: Shapes = {name: tuple(tensor.shape) for name, tensor in tensors_of(model) if name in saved}
    moved = {name for block in record.converted for name in block.source.names}
    other = {name: shape for name, shape in own.items() if name not in moved}
    for block in record.converted:
        other |= _shapes_of(block, form, own)
    given, wanted = (other, own) if back else (own, other)
    return Plan(record, given, wanted, back, functools.partial(_orders, model, form, back))


def _as_form(block: RecognizedBlock, form: str) -> Rewritten:
    """What is nothing but a block becomes one of the three forms."""
    source = side_of(block).blocks[0]
    return Rewritten(source, dataclasses.replace(source, column=kept(block.spec, form)))


def _shapes_of(block: Rewritten, form: str, own: Shapes) -> Shapes:
    """Names and shapes of what a block's tensors become, as far as they are saved."""
    cardinality, shapes = block.source.spec.cardinality, _shapes(form, block.source.spec)
    found: Shapes = {}
    for row, place in block.target.column.items():
        kept = block.source.column.get(row)
        if kept is None or all(name in own for name in kept.names(cardinality)):
            names = zip(place.names(cardinality), column_of(form)[row].names(cardinality), strict=True)
            found.update((name, shapes[as_form]) for name, as_form in names)
    return found


@functools.lru_cache
def _shapes(form: str, spec: BlockSpec) -> Shapes:
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in tensors_of(FORMS[form](spec))}


def _orders(model: nn.Module, form: str, back: bool) -> tuple[list[str], list[str]]:
    own, other = ([name for name, _ in m.named_parameters()] for m in (model, convert(model, form)))
    return (other, own) if back else (own, other)
