"""A part of a block in one of the three forms: any consecutive steps, with the interface of a module.

Guarantee: between parts flows what flows between the modules of a grouped block, all branches side
by side, so a part can stand where a module stood, and the code around it need not know. Its tensors
are named as in the form itself, so the form's column of the correspondence is the part's, too.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import OrderedDict
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from equivalence.blocks.forms import FORMS, Block, PerBranch
from equivalence.blocks.recognition.units import SEQUENCE

if TYPE_CHECKING:
    from equivalence.blocks.spec import BlockSpec


class Part(nn.Module):
    """Steps of a block, from the reduce convolution to the norm after the sum.

    >>> from equivalence import BlockSpec
    >>> spec = BlockSpec(in_channels=8, cardinality=2, width=3)
    >>> part = Part(spec, "per-branch", steps=("transform.conv",))
    >>> [name for name, _ in part.named_parameters()]
    ['branches.0.transform.conv.weight', 'branches.1.transform.conv.weight']
    >>> part(torch.zeros(1, 6, 5, 5)).shape
    torch.Size([1, 6, 5, 5])

    Args:
        spec: of the whole block.
        form: "per-branch", "concatenated" or "grouped".
        steps: consecutive names of `SEQUENCE`.
        reduce_stride: stride of the reduce convolution.
        block: a whole block of that form, to take the steps from; its shortcut is left out.
    """

    def __init__(
        self, spec: BlockSpec, form: str, steps: tuple[str, ...], reduce_stride: int = 1, block: Block | None = None
    ) -> None:
        super().__init__()
        self.spec, self.form, self.steps = spec, form, steps
        block = block or FORMS[form](dataclasses.replace(spec, shortcut="none"))
        self.branches: nn.ModuleList | None = None
        if form != "grouped":
            branches = [_picked(branch, steps, reduce_stride) for branch in block.get_submodule("branches").children()]
            self.branches = nn.ModuleList(branches) if len(branches[0]) else None
        else:
            for name, stage in _picked(block, steps, reduce_stride).named_children():
                self.add_module(name, stage)
        if "expand" in steps and form != "per-branch":
            self.expand = block.get_submodule("expand")
        self.bias = block.bias if "expand" in steps and isinstance(block, PerBranch) else None
        if "norm" in steps:
            self.norm = block.norm

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C_in or all hidden channels, H, W)` → `(N, all hidden channels or C_out, H', W')`."""
        if self.branches is not None:
            whole = SEQUENCE.index(self.steps[0]) == 0
            own = [x] * len(self.branches) if whole else x.chunk(len(self.branches), dim=1)
            parts = [branch(part) for branch, part in zip(self.branches, own, strict=True)]
            summed = self.form == "per-branch" and "expand" in self.steps
            x = functools.reduce(torch.add, parts) if summed else torch.cat(parts, dim=1)
        for name in ("reduce", "transform", "expand"):
            if (stage := getattr(self, name, None)) is not None:
                x = stage(x)
        if self.bias is not None:
            x = x + self.bias.view(-1, *[1] * self.spec.spatial_dims)
        if "norm" in self.steps:
            x = self.norm(x)
        return x

    def extra_repr(self) -> str:
        """Name the form and the steps where the part is printed."""
        return f"form={self.form!r}, steps={self.steps[0]!r} to {self.steps[-1]!r}"


def _picked(stages: nn.Module, steps: tuple[str, ...], reduce_stride: int) -> nn.Sequential:
    """The steps of a part out of a branch, or out of all branches at once."""
    found: OrderedDict[str, nn.Module] = OrderedDict()
    for name in ("reduce", "transform"):
        children = stages.get_submodule(name).named_children()
        if kept := OrderedDict((step, child) for step, child in children if f"{name}.{step}" in steps):
            found[name] = nn.Sequential(kept)
    if "reduce.conv" in steps:
        conv = found["reduce"].get_submodule("conv")
        conv.stride = (reduce_stride,) * len(conv.stride)  # type: ignore[arg-type]  # of a convolution
    if "expand" in steps and isinstance(stages, nn.Sequential):
        found |= {"expand": stages.get_submodule("expand")} if hasattr(stages, "expand") else {}
    return nn.Sequential(found)
