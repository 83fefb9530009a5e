"""The correspondence: which scalar of one form is which scalar of another, said once.

Guarantee: every tensor of every form stands in exactly one row of `ROWS`, and within a row the
patterns of two forms are two arrangements of the same axes, so the table is a bijection between
the scalars of any two forms. A pattern read backwards is the inverse and two patterns in a row are
a composition, so nothing about *pairs* of forms is written anywhere. A new form is one more column,
and so is a block that was recognised in somebody else's module: its column is data, read off its
dataflow, where the columns of the three forms are written below.

A pattern is einops' and arranges the canonical axes of its row, in which branches are an axis of
their own (`c`; `o` and `i` are output and input channels, `...` the spatial axes). A path with
`{c}` stands for one tensor per branch, listed along `c`. An axis that a pattern adds to the
canonical ones holds copies: counters of batches are repeated per branch and have to agree.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import einops
import torch

from equivalence.blocks.place import Place, axes_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


# Where a block keeps each quantity, by the name of its row.
Column = Mapping[str, Place]


class CorrespondenceError(ValueError):
    """Tensors of a form do not fit the table."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One quantity of the block: its canonical axes, and its place in each form."""

    name: str
    axes: str
    places: Column

    def place(self, column: str | Column) -> Place | None:
        """Where a form, or a block with a column of its own, keeps the quantity."""
        return self.places[column] if isinstance(column, str) else column.get(self.name)

    def names(self, column: str | Column, cardinality: int) -> list[str]:
        """The names of the tensors that hold it there, none if it is not kept."""
        place = self.place(column)
        return place.names(cardinality) if place else []

    def gather(self, column: str | Column, tensors: Sequence[Tensor], cardinality: int) -> Tensor:
        """A column's tensors in the canonical arrangement.

        Raises:
            CorrespondenceError: if they do not fit the pattern, or copies of one scalar disagree.
        """
        place = self._kept(column)
        if len({(tensor.shape, tensor.dtype) for tensor in tensors}) != 1:
            seen = [f"{tuple(tensor.shape)} {tensor.dtype}" for tensor in tensors]
            raise CorrespondenceError(f"branches of {self.name} differ in shape or dtype: {seen}")
        whole = torch.stack(list(tensors)) if place.per_branch else tensors[0]
        copies = axes_of(place.axes) - axes_of(self.axes)
        try:
            if copies:
                return self._agreed(whole)
            return _rearrange(whole, place.axes, self.axes, cardinality)
        except einops.EinopsError as error:
            raise CorrespondenceError(
                f"{place.label} has shape {tuple(tensors[0].shape)}, which is no "
                f"'{place.axes}' with c={cardinality}: {str(error).splitlines()[-1].strip()}"
            ) from None

    def scatter(self, column: str | Column, canonical: Tensor, cardinality: int) -> Sequence[Tensor]:
        """The canonical tensor as a column keeps it: views where that is possible."""
        place = self._kept(column)
        if copies := axes_of(place.axes) - axes_of(self.axes):
            sizes = dict.fromkeys(copies, cardinality)
            whole = einops.repeat(canonical, f"{self.axes} -> {place.axes}", **sizes)
        else:
            whole = _rearrange(canonical, self.axes, place.axes, cardinality)
        return whole.unbind(0) if place.per_branch else [whole]

    def scatter_parts(self, column: str | Column, parts: Tensor, cardinality: int) -> Sequence[Tensor]:
        """`scatter` of many canonical tensors at once, listed along a first axis that all results keep."""
        place = self._kept(column)
        whole = _rearrange(parts, f"parts {self.axes}", f"parts {place.axes}", cardinality)
        return whole.unbind(1) if place.per_branch else [whole]

    def _kept(self, column: str | Column) -> Place:
        if (place := self.place(column)) is None:
            raise CorrespondenceError(f"{self.name} has no counterpart")
        return place

    def _agreed(self, copies: Tensor) -> Tensor:
        """The one value of all copies along the first axis."""
        if not copies.is_meta and not torch.equal(copies, copies[:1].expand_as(copies)):
            raise CorrespondenceError(f"{self.name} is one number, but the branches hold {copies.tolist()}")
        return copies[0]


def _rearrange(tensor: Tensor, source: str, target: str, cardinality: int) -> Tensor:
    sizes = {"c": cardinality} if "c" in axes_of(source) else {}
    return einops.rearrange(tensor, f"{source} -> {target}", **sizes)


def _row(name: str, axes: str, **places: str) -> Row:
    """A row as it stands in the table: `form="path: pattern"`, `_` for the `-` in a form's name."""
    columns = {form.replace("_", "-"): place.split(":") for form, place in places.items()}
    return Row(name, axes, {form: Place(path, at.strip()) for form, (path, at) in columns.items()})


def _in_branches(stage: str) -> list[Row]:
    """Reduce and transform are alike: apart in (a) and (b), side by side in (c)."""
    vectors = ("conv.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")
    counter = "norm.num_batches_tracked"
    return [
        _row(
            f"{stage}.conv.weight",
            "c o i ...",
            per_branch=f"branches.{{c}}.{stage}.conv.weight: c o i ...",
            concatenated=f"branches.{{c}}.{stage}.conv.weight: c o i ...",
            grouped=f"{stage}.conv.weight: (c o) i ...",
        ),
        *(
            _row(
                f"{stage}.{vector}",
                "c o",
                per_branch=f"branches.{{c}}.{stage}.{vector}: c o",
                concatenated=f"branches.{{c}}.{stage}.{vector}: c o",
                grouped=f"{stage}.{vector}: (c o)",
            )
            for vector in vectors
        ),
        _row(
            f"{stage}.{counter}",
            "",
            per_branch=f"branches.{{c}}.{stage}.{counter}: c",
            concatenated=f"branches.{{c}}.{stage}.{counter}: c",
            grouped=f"{stage}.{counter}:",
        ),
    ]


def _after_sum(path: str, axes: str, name: str | None = None) -> Row:
    """What belongs to no branch appears once, alike in every form."""
    place = f"{path}: {axes}"
    return _row(name or path, axes, per_branch=place, concatenated=place, grouped=place)


def _activations(name: str, path: str) -> Row:
    """What a submodule of every branch returns, `(N, C, H, W)` with channels apart by branch."""
    return _row(
        name,
        "n c o ...",
        per_branch=f"branches.{{c}}.{path}: c n o ...",
        concatenated=f"branches.{{c}}.{path}: c n o ...",
        grouped=f"{path}: n (c o) ...",
    )


_NORM = {"weight": "o", "bias": "o", "running_mean": "o", "running_var": "o"} | {"num_batches_tracked": ""}

ROWS: tuple[Row, ...] = (
    *_in_branches("reduce"),
    *_in_branches("transform"),
    _row(
        "expand.weight",
        "c o i ...",
        per_branch="branches.{c}.expand.weight: c o i ...",
        concatenated="expand.weight: o (c i) ...",
        grouped="expand.weight: o (c i) ...",
    ),
    _row(
        "expand.bias", "o", per_branch="bias: o", concatenated="expand.bias: o",
        grouped="expand.bias: o",
    ),
    *(_after_sum(f"norm.{name}", axes) for name, axes in _NORM.items()),
    _after_sum("shortcut.conv.weight", "o i ..."),
    *(_after_sum(f"shortcut.norm.{name}", axes) for name, axes in _NORM.items()),
)  # fmt: skip


def column_of(form: str) -> Column:
    """The column of a form: where it keeps the quantity of every row."""
    return {row.name: row.places[form] for row in ROWS}


# Activations correspond like weights do. A path names a submodule, and what it receives or returns
# is the stage: the sum over branches is no module, but the norm receives it.
STAGES: tuple[tuple[Row, Literal["receives", "returns"]], ...] = (
    (_activations("reduced", "reduce"), "returns"),
    (_activations("transformed", "transform"), "returns"),
    (_after_sum("norm", "n o ...", name="aggregated"), "receives"),
)


def gather(column: str | Column, tensors: Mapping[str, Tensor], cardinality: int) -> dict[str, Tensor]:
    """A block's named tensors in the canonical arrangement, branches as an axis of their own.

    >>> gather("grouped", {"expand.weight": torch.zeros(8, 6, 1, 1)}, cardinality=2)[
    ...     "expand.weight"
    ... ].shape
    torch.Size([2, 8, 3, 1, 1])

    Args:
        column: the form's name, or the column of a recognised block.
        tensors: some or all of its tensors (weights, gradients, moments) by name.
        cardinality: number of branches.

    Returns:
        canonical tensors by the name of their row; rows of which nothing was given are left out.

    Raises:
        CorrespondenceError: if a name is in no row, branches are missing, or shapes do not fit.
    """
    canonical: dict[str, Tensor] = {}
    left = set(tensors)
    for row in ROWS:
        names = row.names(column, cardinality)
        present = [name for name in names if name in left]
        if not present:
            continue
        if len(present) != len(names):
            missing = next(name for name in names if name not in left)
            raise CorrespondenceError(f"{missing} is missing, but {present[0]} is there")
        left.difference_update(present)
        canonical[row.name] = row.gather(column, [tensors[name] for name in names], cardinality)
    if left:
        raise CorrespondenceError(f"{sorted(left)[0]} has no counterpart in the other forms")
    return canonical


def scatter(column: str | Column, canonical: Mapping[str, Tensor], cardinality: int) -> dict[str, Tensor]:
    """Canonical tensors as a block names and arranges them: the inverse of `gather`.

    >>> canonical = {"expand.weight": torch.zeros(2, 8, 3, 1, 1)}
    >>> weights = scatter("per-branch", canonical, cardinality=2)
    >>> [(name, tuple(tensor.shape)) for name, tensor in weights.items()]
    [('branches.0.expand.weight', (8, 3, 1, 1)), ('branches.1.expand.weight', (8, 3, 1, 1))]

    Args:
        column: the form's name, or the column of a recognised block.
        canonical: tensors by the name of their row.
        cardinality: number of branches.
    """
    tensors: dict[str, Tensor] = {}
    for row in ROWS:
        if row.name in canonical:
            parts = row.scatter(column, canonical[row.name], cardinality)
            tensors.update(zip(row.names(column, cardinality), parts, strict=True))
    return tensors
