"""What a block is made of: layers, output shapes, parameters and sizes, as torchinfo prints them.

Guarantee: the figures are torchinfo's own, from running each block once on zeros.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torchinfo

from equivalence.blocks.forms import FORMS

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


def _summary(title: str, module: nn.Module, shape: tuple[int, ...]) -> str:
    columns = ("output_size", "num_params")
    summary = torchinfo.summary(
        module, shape, col_names=columns, row_settings=("var_names",), verbose=0, mode="eval"
    )
    return f"{title}, input {shape}\n{summary}\n"
