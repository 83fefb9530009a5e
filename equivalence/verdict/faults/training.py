"""Mistakes that no output in evaluation mode shows: gradients and running statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from equivalence.verdict.faults.edits import after_in_branch, batch_norms, need, units
from equivalence.verdict.faults.fault import Fault

if TYPE_CHECKING:
    from torch import Tensor, nn

    from equivalence.blocks.forms import Block
    from equivalence.verdict.faults.fault import Spot


def _cut(block: Block, spot: Spot) -> None:
    after_in_branch(block, "reduce.activation", spot.branch, lambda _, returned: returned.detach())


def _biased(norm: Any, received: tuple[Tensor, ...], _: Tensor) -> None:
    """Correct the running variance that the norm has just updated to what a biased estimate had made of it."""
    if not norm.training:
        return
    x = received[0].detach()
    axes = [axis for axis in range(x.dim()) if axis != 1]
    weight = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    count = x.numel() // x.shape[1]
    biased = x.var(axes, unbiased=False)
    # Replaced, not written to: the backward pass still needs it.
    norm.running_var = norm.running_var - biased * (weight / (count - 1))


def _biased_variance(block: Block, _: Spot) -> None:
    need(block.spec.momentum != 0, "with momentum 0 no estimate of the variance is used")
    for norm in batch_norms(block):
        norm.register_forward_hook(_biased)


def _not_updated(block: Block, _: Spot) -> None:
    need(block.spec.momentum != 0, "with momentum 0 statistics are not updated anyway")
    for norm in batch_norms(block):
        norm.momentum = 0.0


def _evaluates(norm: nn.Module, _: tuple[Tensor, ...]) -> None:
    norm.training = False


def _frozen_norm(block: Block, _: Spot) -> None:
    batch_norms(block)
    for unit in units(block, "transform"):
        unit.norm.register_forward_pre_hook(_evaluates)


def _frozen_weight(block: Block, _: Spot) -> None:
    for unit in units(block, "transform"):
        unit.conv.weight.requires_grad_(False)


def _frozen_last(block: Block, _: Spot) -> None:
    several = units(block, "transform")
    need(len(several) > 1, "all branches are one tensor, which is frozen or not as a whole")
    several[-1].conv.weight.requires_grad_(False)


FAULTS = (
    Fault("gradient-cut", "the gradient is cut in one branch, after the reduce",
          "training", "input gradient", "eval", _cut),
    Fault("biased-variance", "running variances are updated with the biased estimate",
          "training", "statistics", "train", _biased_variance),
    Fault("statistics-not-updated", "training does not update the running statistics",
          "training", "statistics", "train", _not_updated),
    Fault("norm-frozen", "the transform's norm stays in evaluation mode while the block is trained",
          "training", "transformed", "train", _frozen_norm),
    Fault("weights-frozen", "the transform's weights do not learn",
          "training", "parameter gradients", "train", _frozen_weight),
    Fault("last-branch-frozen", "the transform's weights of the last branch do not learn",
          "training", "parameter gradients", "train", _frozen_last),
)  # fmt: skip
