"""Changes that are none: the same function, written or stored otherwise. No check may call them different."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from torch import Tensor, nn

from equivalence.blocks.forms import FORMS
from equivalence.verdict.faults.edits import BRANCH_STAGES, canonical, edit, need, units
from equivalence.verdict.faults.fault import Fault
from equivalence.weights.correspondence import ROWS, scatter

if TYPE_CHECKING:
    from collections.abc import Callable

    from equivalence.blocks.forms import Block
    from equivalence.verdict.faults.fault import Spot

_VECTORS = ("conv.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")


def _reordered(block: Block, spot: Spot) -> None:
    order = list(range(block.spec.cardinality))
    first, second = spot.pair
    order[first], order[second] = order[second], order[first]
    edit(block, {row.name: lambda t: t[order] for row in ROWS if row.axes.startswith("c ")})


def _permuted(block: Block, _: Spot) -> None:
    need(block.spec.norm_groups == 1, "a norm puts channels of one branch in groups")

    def rolled(axis: int) -> Callable[[Tensor], Tensor]:
        return lambda t: t.roll(1, axis)

    outputs = {f"{stage}.{name}": rolled(1) for stage in BRANCH_STAGES for name in _VECTORS}
    both = lambda t: t.roll((1, 1), (1, 2))  # noqa: E731  # named for where it stands in the table
    weights = {"reduce.conv.weight": rolled(1), "transform.conv.weight": both, "expand.weight": rolled(2)}
    edit(block, outputs | weights)


class _Clamp(nn.Module):
    """ReLU, spelled as a clamp."""

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape."""
        return x.clamp(min=0)


class _Product(nn.Module):
    """ReLU, spelled as a product with a mask."""

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape."""
        return x * (x > 0).to(x.dtype)


def _spelled(make: Callable[[], nn.Module]) -> Callable[[Block, Spot], None]:
    def change(block: Block, _: Spot) -> None:
        need(block.spec.activation == "relu", f"the activation is {block.spec.activation}, not relu")
        for stage in BRANCH_STAGES:
            for unit in units(block, stage):
                unit.activation = make()
        block.activation = make()

    return change


def _padded(block: Block, _: Spot) -> Block:
    """One more channel in every branch, which nothing reaches and nothing reads."""
    need(block.spec.norm != "group", "a group norm would count the channels that are added")
    spec = dataclasses.replace(block.spec, width=block.spec.width + 1)
    wider = FORMS[block.form](spec)
    given, room = canonical(block), canonical(wider)
    for name, tensor in given.items():
        whole = room[name].to(tensor.dtype)
        inside = tuple(slice(0, n) for n in tensor.shape)
        whole.fill_(1.0 if name.endswith(("norm.weight", "running_var")) else 0)
        whole[inside] = tensor
        room[name] = whole
    example = next(block.parameters())
    wider.to(example.device, example.dtype)
    wider.load_state_dict(scatter(block.form, room, spec.cardinality))
    return wider.train(block.training)


FAULTS = (
    Fault("branches-reordered", "two branches are swapped in every tensor, which reorders a sum",
          "harmless", "nowhere", "eval", _reordered),
    Fault("channels-permuted", "hidden channels are permuted inside every branch, consistently",
          "harmless", "nowhere", "eval", _permuted),
    Fault("relu-as-clamp", "ReLU is spelled as a clamp",
          "harmless", "nowhere", "eval", _spelled(_Clamp)),
    Fault("relu-as-product", "ReLU is spelled as a product with a mask",
          "harmless", "nowhere", "eval", _spelled(_Product)),
    Fault("padded-with-zeros", "every branch is one channel wider, padded with zeros",
          "harmless", "nowhere", "eval", _padded),
)  # fmt: skip
