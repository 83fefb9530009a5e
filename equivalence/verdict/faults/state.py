"""State that was not transferred: tensors that still hold what a fresh module holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from equivalence.verdict.faults.edits import edit, need
from equivalence.verdict.faults.fault import Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from equivalence.blocks.forms import Block
    from equivalence.verdict.faults.fault import Spot, Stage

_FRESH = {
    "running mean": ("norm.running_mean", 0.0),
    "running variance": ("norm.running_var", 1.0),
    "gamma": ("norm.weight", 1.0),
    "beta": ("norm.bias", 0.0),
}


def _fresh(row: str, value: float) -> Callable[[Block, Spot], None]:
    def change(block: Block, _: Spot) -> None:
        edit(block, {row: lambda t: t.fill_(value)})

    return change


def _fresh_in_last(row: str, value: float) -> Callable[[Block, Spot], None]:
    def change(block: Block, _: Spot) -> None:
        def forget(tensor: Tensor) -> Tensor:
            tensor[-1] = value
            return tensor

        edit(block, {row: forget})

    return change


def _counter(block: Block, _: Spot) -> None:
    need(block.spec.momentum is None, f"nothing reads the counter with momentum {block.spec.momentum}")
    edit(block, {f"{part}norm.num_batches_tracked": lambda t: t.zero_() for part in ("reduce.", "transform.", "")})


def _of_all(what: str, stage: str, at: Stage) -> Fault:
    row, value = _FRESH[what]
    path = f"{stage}.{row}" if stage else row
    owner = f"the {stage}'s" if stage else "the last norm's"
    name = f"{stage or 'last'}-{what.replace(' ', '-')}-forgotten"
    return Fault(name, f"{owner} {what} is not transferred", "forgotten state", at, "eval", _fresh(path, value))


def _of_last(what: str) -> Fault:
    row, value = _FRESH[what]
    return Fault(
        f"{what.replace(' ', '-')}-forgotten-in-last-branch",
        f"the transform's {what} of the last branch is not transferred",
        "forgotten state", "transformed", "eval", _fresh_in_last(f"transform.{row}", value),
    )  # fmt: skip


FAULTS = (
    *(_of_all(what, "transform", "transformed") for what in _FRESH),
    _of_all("running mean", "", "normed"),
    _of_all("gamma", "", "normed"),
    *(_of_last(what) for what in _FRESH),
    Fault("transform-bias-forgotten", "the transform's bias is not transferred",
          "forgotten state", "transformed", "eval", _fresh("transform.conv.bias", 0.0)),
    Fault("expand-bias-forgotten", "the expand's bias is not transferred",
          "forgotten state", "aggregated", "eval", _fresh("expand.bias", 0.0)),
    Fault("counter-forgotten", "the number of batches seen is not transferred",
          "forgotten state", "statistics", "train", _counter),
)  # fmt: skip
