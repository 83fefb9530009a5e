"""The main job: the three forms of one block, before and after their weights are transferred.

Guarantee: the forms start from independent weights, as training would leave them, so that
agreement afterwards is the work of the transfer alone; per-branch → concatenated → grouped is
transferred in a row, so that the last pair holds two transfers against each other.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING

import torch

from equivalence.arithmetic.floating import Mode, compare
from equivalence.arithmetic.preserve import random_state, seed_everything
from equivalence.blocks.forms import FORMS, Block
from equivalence.blocks.initialize import as_if_trained
from equivalence.blocks.spec import SpecError
from equivalence.verdict.check import check
from equivalence.verdict.memory import Memory
from equivalence.weights.transfer import TransferRecord, transfer

if TYPE_CHECKING:
    from equivalence.blocks.spec import BlockSpec
    from equivalence.verdict.verdict import Report


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """How the forms of a block are run.

    Attributes:
        size: of each spatial axis of the input.
        batch: number of inputs N.
        mode: "eval" or "train".
        dtype: of weights and input, such as "float32".
        seed: of weights, input and cotangent.
        gradients: whether gradients are compared too.
        device: where everything runs, such as "cpu".
    """

    size: int = 56
    batch: int = 1
    mode: Mode = "eval"
    dtype: str = "float32"
    seed: int = 0
    gradients: bool = False
    device: str = "cpu"


def build_forms(spec: BlockSpec, setting: Setting) -> list[Block]:
    """Each form of the block with weights of its own, as if it had been trained.

    Raises:
        SpecError: if the device is not there.
    """
    device, dtype = _device(setting.device), getattr(torch, setting.dtype)
    with random_state():
        seed_everything(setting.seed)
        blocks = [form(spec) for form in FORMS.values()]
    for offset, block in enumerate(blocks):
        as_if_trained(block, setting.seed + offset)
        block.to(device, dtype).train(setting.mode == "train")
    return blocks


def verify_forms(spec: BlockSpec, setting: Setting) -> tuple[tuple[Report, ...], tuple[TransferRecord, ...]]:
    """All three pairs with independent weights, then with transferred ones.

    Args:
        spec: the block.
        setting: how its forms are run.

    Returns:
        the six reports, and what the two transfers moved.

    Raises:
        SpecError: if the device is not there.
    """
    blocks = build_forms(spec, setting)
    generator = torch.Generator().manual_seed(setting.seed)
    shape = spec.input_shape(batch=setting.batch, size=setting.size)
    inputs = torch.randn(shape, generator=generator).to(_device(setting.device), getattr(torch, setting.dtype))
    independent = _reports(blocks, inputs, setting, "independent")
    records = tuple(itertools.starmap(transfer, itertools.pairwise(blocks)))
    return independent + _reports(blocks, inputs, setting, "transferred"), records


def _reports(blocks: list[Block], inputs: torch.Tensor, setting: Setting, weights: str) -> tuple[Report, ...]:
    """The figures of each pair are those of the input asked for; the evidence is of small ones.

    A form's proof at a small shape that has corners, edges and an interior says the same as one at
    a large shape, and the bound on rounding is only known where it was computed.
    """
    reports, memory = [], Memory()
    for left, right in itertools.combinations(blocks, 2):
        figures = compare(left, right, inputs, mode=setting.mode, gradients=setting.gradients, seed=setting.seed)
        checked = check(
            left, right, mode=setting.mode, seed=setting.seed, memory=memory, place=weights != "independent"
        )
        reports.append(dataclasses.replace(checked, quantities=figures.quantities, weights=weights))
    return tuple(reports)


def _device(name: str) -> torch.device:
    """The device, if torch knows it and it is there."""
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise SpecError(f"device (={name!r}) must be one that is here: {reason}") from None
    return device
