"""A module as the correspondence sees it: its blocks, each with its column, and the rest.

Guarantee: every tensor of the module stands in exactly one place, in the column of one block or in
the rest. A form's column is the built-in one; anybody else's is read off the dataflow. So forms,
recognised blocks and whole networks are one kind of thing, and weights move between any two.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch

from equivalence.blocks.forms import Block
from equivalence.blocks.recognition.errors import RecognitionError
from equivalence.blocks.recognize import RecognizedBlock, find_blocks
from equivalence.weights.correspondence import CorrespondenceError, column_of, gather, scatter

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor, nn

    from equivalence.blocks.spec import BlockSpec
    from equivalence.weights.correspondence import Column


@dataclasses.dataclass(frozen=True)
class Located:
    """A block of a module, and where its tensors live in it.

    Attributes:
        path: of the submodule that computes it.
        spec: what it is.
        column: its column of the correspondence, named from the module.
        plain: whether the spec says all of it.
        reduce_stride: where the stride sits in the reduce.
    """

    path: str
    spec: BlockSpec
    column: Column
    plain: bool = True
    reduce_stride: int = 1

    def identity(self) -> dict[str, Any]:
        """What two blocks have to share so that weights can move between them."""
        return {**self.spec.to_dict(), "stride of the reduce": self.reduce_stride, "plain": self.plain}

    @property
    def names(self) -> list[str]:
        """The names of its tensors, as far as the column has them."""
        return [name for place in self.column.values() for name in place.names(self.spec.cardinality)]

    def counters_beyond(self, other: Located) -> list[str]:
        """The names of counters of batches that the other block does not keep."""
        rows = [row for row in self.column if row.endswith("num_batches_tracked") and row not in other.column]
        return [name for row in rows for name in self.column[row].names(self.spec.cardinality)]


@dataclasses.dataclass(frozen=True)
class Side:
    """One side of a transfer.

    Attributes:
        module: the module itself.
        label: what records call it.
        blocks: in the order in which they run.
        rest: names of the tensors of no block, in the order of their first use.
    """

    module: nn.Module
    label: str
    blocks: tuple[Located, ...]
    rest: tuple[str, ...] = ()


def side_of(subject: nn.Module | RecognizedBlock, input_shape: Sequence[int] | None = None) -> Side:
    """A form, a recognised block or any module as the correspondence sees it.

    >>> from equivalence import BlockSpec, Grouped
    >>> side = side_of(Grouped(BlockSpec(in_channels=4, cardinality=2, width=2)))
    >>> side.label, side.blocks[0].column["expand.weight"].path
    ('grouped', 'expand.weight')

    Args:
        subject: a form, a block that `recognize` returned, or a module to be searched.
        input_shape: `(N, C, H, W)` to search it with; guessed by default.

    Raises:
        RecognitionError: if there is no block in it.
    """
    if isinstance(subject, Block):
        return Side(subject, subject.form, (Located("", subject.spec, column_of(subject.form)),))
    if isinstance(subject, RecognizedBlock):
        return Side(subject.module, type(subject.module).__name__, (_located(subject, ""),), subject.rest)
    if not isinstance(subject, torch.nn.Module):
        raise RecognitionError("it is no module")
    found = find_blocks(subject, input_shape)
    if not found.blocks:
        raise found.refusal()
    blocks = tuple(_located(block, block.path) for block in found.blocks)
    inside = {name for block in blocks for name in block.names}
    rest = tuple(name for name in found.leaves if name not in inside)
    return Side(subject, type(subject).__name__, blocks, rest)


def _located(block: RecognizedBlock, prefix: str) -> Located:
    column = {row: place.inside(prefix) for row, place in block.places.items()}
    return Located(prefix, block.spec, column, block.plain, block.reduce_stride)


def tensors_of(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by name, the live ones."""
    for name, parameter in module.named_parameters(remove_duplicate=False):
        yield name, parameter.detach()
    yield from module.named_buffers(remove_duplicate=False)


def counterparts(tensors: Mapping[str, Tensor], left: Side, right: Side) -> dict[str, Tensor]:
    """The left side's tensors as the right side names and arranges them.

    Raises:
        CorrespondenceError: if they do not fit.
    """
    moved: dict[str, Tensor] = {}
    left_over = dict(tensors)
    for one, other in zip(left.blocks, right.blocks, strict=True):
        own = {name: left_over.pop(name) for name in one.names if name in left_over}
        moved |= across(own, one, other)
    for origin, goal in zip(left.rest, right.rest, strict=False):
        if origin in left_over:
            moved[goal] = left_over.pop(origin)
    if left_over:
        raise CorrespondenceError(f"{sorted(left_over)[0]} has no counterpart in the target")
    return moved


def across(tensors: Mapping[str, Tensor], left: Located, right: Located) -> dict[str, Tensor]:
    """One block's tensors as another of the same spec names and arranges them."""
    cardinality = left.spec.cardinality
    canonical = gather(left.column, tensors, cardinality)
    kept = {row: t for row, t in canonical.items() if row in right.column or not row.endswith("num_batches_tracked")}
    return scatter(right.column, kept, cardinality)


def owned(tensor: Tensor) -> Tensor:
    """A copy with memory of its own."""
    return tensor.detach().clone(memory_format=torch.contiguous_format)
