"""Hyper-parameters that no state dict holds: every tensor agrees, and the function does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from equivalence.blocks.forms import Grouped
from equivalence.verdict.faults.edits import BRANCH_STAGES, batch_norms, need, norms, units
from equivalence.verdict.faults.fault import Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from equivalence.blocks.forms import Block
    from equivalence.verdict.faults.fault import Spot


def _eps(factor: float) -> Callable[[Block, Spot], None]:
    def change(block: Block, _: Spot) -> None:
        for norm in norms(block):
            norm.eps *= factor

    return change


def _momentum(block: Block, _: Spot) -> None:
    for norm in batch_norms(block):
        norm.momentum = 0.1 if norm.momentum is None else 1 - norm.momentum


def _stride(block: Block, _: Spot) -> None:
    need(block.spec.stride > 1, "with stride 1 there is nothing to misplace")
    for unit in units(block, "reduce"):
        unit.conv.stride = tuple(block.spec.stride for _ in unit.conv.stride)
    for unit in units(block, "transform"):
        unit.conv.stride = tuple(1 for _ in unit.conv.stride)


def _dilation(block: Block, _: Spot) -> None:
    need(block.spec.kernel_size > 1, "a kernel of extent 1 has no dilation")
    dilation = 1 if block.spec.dilation > 1 else 2
    for unit in units(block, "transform"):
        unit.conv.dilation = tuple(dilation for _ in unit.conv.dilation)
        unit.conv.padding = tuple(dilation * (block.spec.kernel_size - 1) // 2 for _ in unit.conv.padding)


def _padding(mode: str) -> Callable[[Block, Spot], None]:
    def change(block: Block, _: Spot) -> None:
        need(block.spec.kernel_size > 1, "a kernel of extent 1 has no padding")
        for unit in units(block, "transform"):
            unit.conv.padding_mode = mode
            # torch derives this from the padding once, when a convolution is made.
            unit.conv._reversed_padding_repeated_twice = [n for n in reversed(unit.conv.padding) for _ in range(2)]

    return change


def _groups(block: Block, _: Spot) -> None:
    need(isinstance(block, Grouped), f"the {block.form} form has no groups")
    cardinality = block.spec.cardinality
    need(cardinality > 1, "one group can not be fewer")
    factor = next(n for n in range(2, cardinality + 1) if cardinality % n == 0)
    (unit,) = units(block, "transform")
    conv = unit.conv
    conv.groups = cardinality // factor
    # What a loader does that makes shapes fit by repeating.
    conv.weight = nn.Parameter(conv.weight.detach().repeat(1, factor, *[1] * block.spec.spatial_dims))


def _straddling(block: Block, _: Spot) -> None:
    need(block.spec.norm == "group", f"the norm is {block.spec.norm}, not group")
    need(isinstance(block, Grouped), f"a norm of the {block.form} form sees one branch only")
    need(block.spec.cardinality > 1, "one branch can not be straddled")
    for stage in BRANCH_STAGES:
        for unit in units(block, stage):
            unit.norm.num_groups = block.spec.norm_groups


FAULTS = (
    Fault("eps-third-digit", "eps of every norm is wrong in the third digit",
          "hyper-parameters", "reduced", "eval", _eps(1.01)),
    Fault("eps-sixth-digit", "eps of every norm is wrong in the sixth digit",
          "hyper-parameters", "reduced", "eval", _eps(1.00001)),
    Fault("momentum", "momentum weighs the old statistics instead of the new batch",
          "hyper-parameters", "statistics", "train", _momentum),
    Fault("stride-in-reduce", "the stride is in the 1×1 reduce instead of the transform",
          "hyper-parameters", "reduced", "eval", _stride),
    Fault("dilation", "the transform has another dilation, padded to the same size",
          "hyper-parameters", "transformed", "eval", _dilation),
    Fault("padding-replicated", "the transform repeats the border instead of padding zeros",
          "hyper-parameters", "transformed", "eval", _padding("replicate")),
    Fault("padding-circular", "the transform pads around the corner instead of padding zeros",
          "hyper-parameters", "transformed", "eval", _padding("circular")),
    Fault("groups", "the grouped transform has too few groups, its weights repeated until shapes fit",
          "hyper-parameters", "transformed", "eval", _groups),
    Fault("norm-straddles-branches", "the group norms of all branches together have as many groups as those of one",
          "hyper-parameters", "reduced", "eval", _straddling),
)  # fmt: skip
