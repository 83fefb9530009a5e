"""Mistakes in slicing: every scalar is there, but not all are where they belong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from einops import rearrange

from equivalence.verdict.faults.edits import edit, need
from equivalence.verdict.faults.fault import Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from equivalence.blocks.forms import Block
    from equivalence.verdict.faults.fault import Spot


def _swapped(row: str) -> Callable[[Block, Spot], None]:
    def change(block: Block, spot: Spot) -> None:
        first, second = spot.pair

        def swap(tensor: Tensor) -> Tensor:
            tensor[[first, second]] = tensor[[second, first]]
            return tensor

        edit(block, {row: swap})

    return change


def _rearranged(row: str, there: str, back: str) -> Callable[[Block, Spot], None]:
    """Read in one arrangement and written as if it had been another."""

    def change(block: Block, _: Spot) -> None:
        def moved(tensor: Tensor) -> Tensor:
            sizes = dict(zip("coi", tensor.shape, strict=False))
            used = {axis: n for axis, n in sizes.items() if axis in back.split("->")[0]}
            return rearrange(rearrange(tensor, there), back, **used)

        edit(block, {row: moved})

    return change


def _shifted(row: str) -> Callable[[Block, Spot], None]:
    def change(block: Block, _: Spot) -> None:
        edit(block, {row: lambda t: t.flatten(0, 1).roll(1, 0).view(t.shape)})

    return change


def _cut_on_axis_0(block: Block, _: Spot) -> None:
    edit(block, {"expand.weight": lambda t: rearrange(t, "c o i ... -> o (c i) ...").reshape(t.shape)})


def _one_for_all(row: str) -> Callable[[Block, Spot], None]:
    def change(block: Block, spot: Spot) -> None:
        need(block.spec.cardinality > 1, "one branch is all branches")
        edit(block, {row: lambda t: t[spot.branch].expand_as(t).clone()})

    return change


def _last_dropped(block: Block, _: Spot) -> None:
    def drop(tensor: Tensor) -> Tensor:
        tensor[-1] = 0
        return tensor

    edit(block, {"expand.weight": drop})


FAULTS = (
    Fault("reduce-branches-swapped", "two branches are swapped in reduce.conv.weight, and nowhere else",
          "slices", "reduced", "eval", _swapped("reduce.conv.weight")),
    Fault("transform-branches-swapped", "two branches are swapped in transform.conv.weight, and nowhere else",
          "slices", "transformed", "eval", _swapped("transform.conv.weight")),
    Fault("expand-branches-swapped", "two branches are swapped in expand.weight, and nowhere else",
          "slices", "aggregated", "eval", _swapped("expand.weight")),
    Fault("variance-branches-swapped", "two branches are swapped in the transform's running variance",
          "slices", "transformed", "eval", _swapped("transform.norm.running_var")),
    Fault("reduce-interleaved", "the reduce's output channels are interleaved: (o c) is read where (c o) was meant",
          "slices", "reduced", "eval",
          _rearranged("reduce.conv.weight", "c o i ... -> (c o) i ...", "(o c) i ... -> c o i ...")),
    Fault("expand-interleaved", "the expand's input channels are interleaved: (i c) is read where (c i) was meant",
          "slices", "aggregated", "eval",
          _rearranged("expand.weight", "c o i ... -> o (c i) ...", "o (i c) ... -> c o i ...")),
    Fault("slice-shifted", "the slices of transform.conv.weight start one channel too late",
          "slices", "transformed", "eval", _shifted("transform.conv.weight")),
    Fault("gamma-slice-shifted", "the slices of the reduce's gamma start one channel too late",
          "slices", "reduced", "eval", _shifted("reduce.norm.weight")),
    Fault("expand-axis-0", "expand.weight is sliced on axis 0 instead of axis 1",
          "slices", "aggregated", "eval", _cut_on_axis_0),
    Fault("one-branch-for-all", "one branch's transform weights are used for all branches",
          "slices", "transformed", "eval", _one_for_all("transform.conv.weight")),
    Fault("one-expand-for-all", "one branch's expand weights are used for all branches",
          "slices", "aggregated", "eval", _one_for_all("expand.weight")),
    Fault("last-branch-dropped", "the last branch's expand weights are zero, as if the loop ended one too early",
          "slices", "aggregated", "eval", _last_dropped),
)  # fmt: skip
