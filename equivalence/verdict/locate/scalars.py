"""Which numbers two forms of one block do not share: scalars under the correspondence, and hyper-parameters.

Guarantee: scalars are compared bit for bit, and named as each form names them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from equivalence.verdict.faults.edits import BRANCH_STAGES, canonical, units
from equivalence.verdict.locate.place import Scalar
from equivalence.weights.correspondence import ROWS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from equivalence.blocks.forms import Block
    from equivalence.weights.correspondence import Row

_SETTINGS = ("eps", "momentum", "stride", "padding", "dilation", "padding_mode")


def differing_rows(left: Block, right: Block) -> dict[str, Tensor]:
    """For each quantity that both forms have in one shape: where it differs, if it does anywhere."""
    ours, theirs = canonical(left), canonical(right)
    return {
        name: apart
        for name in ours
        if name in theirs and ours[name].shape == theirs[name].shape
        if (apart := ours[name] != theirs[name]).any()
    }


def first_scalar(left: Block, right: Block) -> Scalar | None:
    """The first scalar, in the order in which a block uses them, that differs."""
    for name, apart in differing_rows(left, right).items():
        row = next(row for row in ROWS if row.name == name)
        flat = int(apart.flatten().int().argmax())
        at = [int(i) for i in torch.unravel_index(torch.tensor(flat), apart.shape)]
        axes = row.axes.split()
        ours, theirs = (float(canonical(side)[name].flatten()[flat]) for side in (left, right))
        return Scalar(
            name, _named(left, row, apart.shape, flat), _named(right, row, apart.shape, flat), ours, theirs,
            branch=at[axes.index("c")] if "c" in axes else None,
            tap=tuple(at[axes.index("...") :]) if "..." in axes else (),
            differing=int(apart.sum()), compared=apart.numel(), flat=flat,
        )  # fmt: skip
    return None


def differing_branches(left: Block, right: Block) -> list[int]:
    """The branches whose scalars differ, those that differ most first."""
    count = torch.zeros(left.spec.cardinality)
    for name, apart in differing_rows(left, right).items():
        if next(row for row in ROWS if row.name == name).axes.startswith("c"):
            count += apart.flatten(1).sum(1)
    return [int(b) for b in count.argsort(descending=True, stable=True) if count[b]]


def differing_settings(left: Block, right: Block) -> tuple[str, ...]:
    """Hyper-parameters that no state dict holds and that differ, in words."""
    said = []
    for (path, ours), (_, theirs) in zip(_parts(left), _parts(right), strict=True):
        if type(ours) is not type(theirs):
            said.append(f"{path} is a {type(ours).__name__} / {type(theirs).__name__}")
            continue
        values = zip(_settings(ours), _settings(theirs), strict=True)
        said += [f"{path}.{name} is {one!r} / {other!r}" for (name, one), (_, other) in values if one != other]
    return tuple(said)


def _settings(part: nn.Module) -> Iterator[tuple[str, Any]]:
    """What a part is told; of its groups, the size, since their number follows from that of the branches."""
    for name in _SETTINGS:
        yield name, getattr(part, name, None)
    if isinstance(part, nn.GroupNorm):
        yield "group size", part.num_channels // part.num_groups


def _parts(block: Block) -> Iterator[tuple[str, nn.Module]]:
    """What every form has, of branches the first."""
    for stage in BRANCH_STAGES:
        for name, part in units(block, stage)[0].named_children():
            yield f"{stage}.{name}", part
    yield "norm", block.norm
    yield "activation", block.activation


def _named(block: Block, row: Row, shape: torch.Size, flat: int) -> str:
    """What a form calls a canonical scalar."""
    cardinality = block.spec.cardinality
    scalars = torch.arange(shape.numel()).view(shape)
    names = row.places[block.form].names(cardinality)
    for name, which in zip(names, row.scatter(block.form, scalars, cardinality), strict=True):
        if (which == flat).any():
            index = (which == flat).nonzero()[0].tolist()
            return f"{name}{index}" if index else name
    return row.name
