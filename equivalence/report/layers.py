"""What a block is made of: layers, output shapes, parameters and sizes, as torchinfo prints them.

Guarantee: the figures are torchinfo's own, from running each block once on zeros.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torchinfo

from equivalence.blocks.forms import FORMS
from equivalence.blocks.notebook import NOTEBOOK, BottleneckA, BottleneckB, BottleneckC

if TYPE_CHECKING:
    from torch import nn

    from equivalence.blocks.spec import BlockSpec


def forms(spec: BlockSpec, batch: int, size: int) -> str:
    """Each form of the block, one summary after the other.

    Args:
        spec: the block.
        batch: number of inputs N.
        size: of each spatial axis.
    """
    shape = spec.input_shape(batch=batch, size=size)
    return "\n".join(_summary(name, form(spec), shape) for name, form in FORMS.items())


def notebook(batch: int) -> str:
    """The seed notebook's structures at 256×56×56, beside the totals that it published.

    The notebook's summary counted its one shared branch C times, so the branches are independent
    here.

    Args:
        batch: number of inputs N.
    """
    independent = dataclasses.replace(NOTEBOOK, shared_branch=False)
    structures = {
        BottleneckA(deviations=independent): "87,168",
        BottleneckB(deviations=independent): "71,296",
        BottleneckC(deviations=independent): "71,296",
    }
    return "\n".join(
        _summary(type(module).__name__, module, (batch, 256, 56, 56)) + f"published: {published} parameters\n"
        for module, published in structures.items()
    )


def _summary(title: str, module: nn.Module, shape: tuple[int, ...]) -> str:
    summary = torchinfo.summary(
        module,
        shape,
        col_names=("output_size", "num_params"),
        row_settings=("var_names", "depth"),
        depth=10,
        verbose=0,
        mode="eval",
    )
    # torchinfo prints an enum member where it means its value (millions).
    shown = str(summary).replace("(Units.MEGABYTES)", "(M)").replace("(Units.GIGABYTES)", "(G)")
    return f"{title}, input {shape}\n{shown}\n"
