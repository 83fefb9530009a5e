"""Mistakes of precision: bits that were lost on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from equivalence.verdict.faults.edits import edit
from equivalence.verdict.faults.fault import Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from equivalence.blocks.forms import Block
    from equivalence.verdict.faults.fault import Spot


def _ulp(row: str) -> Callable[[Block, Spot], None]:
    def change(block: Block, spot: Spot) -> None:
        def next_float(tensor: Tensor) -> Tensor:
            flat = tensor.flatten()
            at = spot.scalar % flat.numel()
            flat[at] = torch.nextafter(flat[at], flat.new_tensor(torch.inf))
            return flat.view(tensor.shape)

        edit(block, {row: next_float})

    return change


def _branch_rounded(block: Block, spot: Spot) -> None:
    def rounded(tensor: Tensor) -> Tensor:
        tensor[spot.branch] = tensor[spot.branch].bfloat16().to(tensor.dtype)
        return tensor

    rows = ("reduce.conv.weight", "transform.conv.weight", "expand.weight")
    edit(block, dict.fromkeys(rows, rounded))


def _variance_rounded(block: Block, _: Spot) -> None:
    edit(block, {"transform.norm.running_var": lambda t: t.half().to(t.dtype)})


FAULTS = (
    Fault("one-ulp-in-reduce", "one scalar of reduce.conv.weight is off by one ulp",
          "precision", "reduced", "eval", _ulp("reduce.conv.weight")),
    Fault("one-ulp-in-transform", "one scalar of transform.conv.weight is off by one ulp",
          "precision", "transformed", "eval", _ulp("transform.conv.weight")),
    Fault("one-ulp-in-expand", "one scalar of expand.weight is off by one ulp",
          "precision", "aggregated", "eval", _ulp("expand.weight")),
    Fault("branch-in-bfloat16", "one branch's weights have been rounded to bfloat16",
          "precision", "reduced", "eval", _branch_rounded),
    Fault("variance-in-float16", "the transform's running variance has been rounded to float16",
          "precision", "transformed", "eval", _variance_rounded),
)  # fmt: skip
