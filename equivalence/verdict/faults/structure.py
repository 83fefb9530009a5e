"""Mistakes in what is computed: the tensors agree, the program does not (or a kernel is turned around)."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from equivalence.blocks.forms import PerBranch
from equivalence.verdict.faults.edits import (
    BRANCH_STAGES,
    after,
    after_in_branch,
    before,
    edit,
    need,
    norms,
    units,
)
from equivalence.verdict.faults.fault import Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from equivalence.blocks.forms import Block
    from equivalence.verdict.faults.fault import Spot


class _ExpandByBranch(nn.Module):
    """A concatenated expand taken apart, so that each branch has a norm of its own before the sum."""

    def __init__(self, expand: Any, norm: nn.Module, cardinality: int) -> None:
        super().__init__()
        self.weight, self.bias = expand.weight, expand.bias
        self.norms = nn.ModuleList(copy.deepcopy(norm) for _ in range(cardinality))

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C·d, H, W)` → `(N, C_out, H, W)`."""
        parts = zip(x.chunk(len(self.norms), 1), self.weight.chunk(len(self.norms), 1), self.norms, strict=True)
        convolution = {3: torch.conv1d, 4: torch.conv2d, 5: torch.conv3d}[x.dim()]
        summed = torch.stack([norm(convolution(y, w)) for y, w, norm in parts]).sum(0)
        return summed if self.bias is None else summed + self.bias.view(-1, *[1] * (x.dim() - 2))


def _norm_in_branches(block: Block, _: Spot) -> None:
    norms(block)
    need(block.spec.cardinality > 1, "with one branch, before and after the sum are the same")
    if isinstance(block, PerBranch):
        for branch in block.branches:
            own = copy.deepcopy(block.norm)
            branch.add_module("norm", own)  # the branch is a Sequential: it comes last
    else:
        expand: Any = block.get_submodule("expand")
        block.expand = _ExpandByBranch(expand, block.norm, block.spec.cardinality)
    block.norm = nn.Identity()


def _activation_first(block: Block, _: Spot) -> None:
    need(block.shortcut is not None, "without a shortcut, before and after the addition are the same")
    activation = copy.deepcopy(block.activation)
    after(block.norm, lambda _, y: activation(y))
    block.activation = nn.Identity()


def _activation_missing_in_branch(stage: str) -> Callable[[Block, Spot], None]:
    def change(block: Block, spot: Spot) -> None:
        after_in_branch(block, f"{stage}.activation", spot.branch, lambda received, _: received)

    return change


def _last_activation_missing(block: Block, _: Spot) -> None:
    block.activation = nn.Identity()


def _activations(make: Callable[[], nn.Module]) -> Callable[[Block, Spot], None]:
    def change(block: Block, _: Spot) -> None:
        need(block.spec.activation == "relu", f"the activation is {block.spec.activation}, not relu")
        for stage in BRANCH_STAGES:
            for unit in units(block, stage):
                unit.activation = make()
        block.activation = make()

    return change


def _activation_before_norm(block: Block, _: Spot) -> None:
    norms(block)
    for unit in units(block, "transform"):
        before(unit.norm, unit.activation)
        unit.activation = nn.Identity()


def _bias_per_branch(block: Block, _: Spot) -> None:
    edit(block, {"expand.bias": lambda t: t * block.spec.cardinality})


def _overwritten(block: Block, _: Spot) -> None:
    before(units(block, "reduce")[0], torch.relu_)


def _no_shortcut(block: Block, _: Spot) -> None:
    need(block.shortcut is not None, "there is no shortcut to lose")
    block.shortcut = None


def _flipped(block: Block, _: Spot) -> None:
    axes = tuple(range(-block.spec.spatial_dims, 0))
    edit(block, {"transform.conv.weight": lambda t: t.flip(axes)})


def _transposed(block: Block, _: Spot) -> None:
    need(block.spec.spatial_dims > 1, "a kernel of one dimension has no transpose")
    edit(block, {"transform.conv.weight": lambda t: t.transpose(-1, -2).contiguous()})


def _channels_transposed(block: Block, _: Spot) -> None:
    edit(block, {"transform.conv.weight": lambda t: t.transpose(1, 2).contiguous()})


FAULTS = (
    Fault("norm-in-branches", "the norm is inside every branch, before the sum instead of after it",
          "structure", "aggregated", "eval", _norm_in_branches),
    Fault("activation-before-addition", "the last activation comes before the shortcut is added, and none after",
          "structure", "normed", "eval", _activation_first),
    Fault("activation-missing-after-reduce", "one branch has no activation after the reduce",
          "structure", "reduced", "eval", _activation_missing_in_branch("reduce")),
    Fault("activation-missing-after-transform", "one branch has no activation after the transform",
          "structure", "transformed", "eval", _activation_missing_in_branch("transform")),
    Fault("last-activation-missing", "there is no activation after the addition",
          "structure", "output", "eval", _last_activation_missing),
    Fault("relu6", "ReLU6 stands where ReLU should",
          "structure", "reduced", "eval", _activations(nn.ReLU6)),
    Fault("leaky", "a leaky ReLU of slope 1e-7 stands where ReLU should",
          "structure", "reduced", "eval", _activations(lambda: nn.LeakyReLU(1e-7))),
    Fault("activation-before-norm", "the transform's activation comes before its norm",
          "structure", "transformed", "eval", _activation_before_norm),
    Fault("bias-per-branch", "the expand's bias is added once per branch instead of once",
          "structure", "aggregated", "eval", _bias_per_branch),
    Fault("input-overwritten", "a ReLU overwrites the input in place, so that the shortcut adds another one",
          "structure", "reduced", "eval", _overwritten),
    Fault("shortcut-missing", "the shortcut is not added",
          "structure", "output", "eval", _no_shortcut),
    Fault("kernel-flipped", "the transform's kernels are flipped: a true convolution, not a cross-correlation",
          "structure", "transformed", "eval", _flipped),
    Fault("kernel-transposed", "the last two axes of the transform's kernels are transposed",
          "structure", "transformed", "eval", _transposed),
    Fault("channels-transposed", "input and output channels of the transform's kernels are transposed",
          "structure", "transformed", "eval", _channels_transposed),
)  # fmt: skip
