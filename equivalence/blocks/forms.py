"""The three forms of the ResNeXt block as plain modules that read like Fig. 3 of the paper.

Guarantee: the forms of one `BlockSpec` are the same function of corresponding weights. In each the
branches stay apart until their bare expand outputs are *summed*; then comes one norm, the
shortcut, and the last activation (paper, footnote 6). A convolution is linear, so summing C expand
convolutions is one convolution of the concatenated branches (footnote 3), and C equal
convolutions side by side are one grouped convolution. So are C norms side by side one norm: a batch
norm treats every channel by itself, a group norm every group, and each group lies in one branch.

The forms draw their weights independently of one another, but from *one* distribution: the paper
code's normal with variance 2 / fan-out, where fan-out is that of the grouped form. Applying the
rule to each small convolution by itself would give the branches √C times that deviation.
"""

from __future__ import annotations

import functools
import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from equivalence.blocks.spec import BlockSpec

_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_BATCH_NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class Block(nn.Module):
    """What the forms share: everything that happens once, after the sum over branches.

    Attributes:
        spec: the `BlockSpec` the block was built from.
        form: the name of the form: "per-branch", "concatenated" or "grouped".
    """

    form: ClassVar[str]
    spec: BlockSpec

    def __init__(self, spec: BlockSpec) -> None:
        super().__init__()
        self.spec = spec

    def _add_tail(self, spec: BlockSpec) -> None:
        """What follows the sum over branches; added last so that a block prints in order."""
        self.norm = _norm(spec, spec.out_channels, spec.output_norm_groups)
        self.shortcut = _shortcut(spec)
        self.activation = _activation(spec.activation)

    def aggregated(self, x: Tensor) -> Tensor:
        """The expand outputs summed over branches, `(N, C_out, H_out, W_out)`."""
        raise TypeError(f"{type(self).__name__} does not say how it aggregates its branches")

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C_in, H, W)` → `(N, C_out, H_out, W_out)`."""
        y: Tensor = self.norm(self.aggregated(x))
        if self.shortcut is not None:
            y = y + self.shortcut(x)
        y = self.activation(y)
        return y

    def extra_repr(self) -> str:
        """Name the form and its template where the block is printed."""
        return f"form={self.form!r}, template={self.spec.template!r}"


class PerBranch(Block):
    """Fig. 3(a): C branches reduce, transform and expand; their outputs are summed.

    >>> from equivalence import BlockSpec
    >>> spec = BlockSpec(in_channels=8, cardinality=2, width=3)
    >>> PerBranch(spec)(torch.zeros(1, 8, 5, 5)).shape
    torch.Size([1, 8, 5, 5])
    >>> PerBranch(spec).branches[0].expand.weight.shape
    torch.Size([8, 3, 1, 1])

    Args:
        spec: the block to build.
    """

    form = "per-branch"

    def __init__(self, spec: BlockSpec) -> None:
        super().__init__(spec)
        self.branches = nn.ModuleList(
            nn.Sequential(
                OrderedDict(
                    reduce=_reduce(spec, spec.width),
                    transform=_transform(spec, spec.width, groups=1),
                    expand=_expand(spec, spec.width, bias=False),
                )
            )
            for _ in range(spec.cardinality)
        )
        # The expand bias belongs to no branch: it is added once, to the sum.
        self.bias = nn.Parameter(torch.zeros(spec.out_channels)) if spec.bias[2] else None
        self._add_tail(spec)

    def aggregated(self, x: Tensor) -> Tensor:
        """Sum of the branches, plus the one expand bias."""
        y: Tensor = functools.reduce(torch.add, (branch(x) for branch in self.branches))
        if self.bias is not None:
            y = y + self.bias.view(-1, *[1] * self.spec.spatial_dims)
        return y


class Concatenated(Block):
    """Fig. 3(b): C branches reduce and transform; concatenated, they are expanded at once.

    >>> from equivalence import BlockSpec
    >>> spec = BlockSpec(in_channels=8, cardinality=2, width=3)
    >>> Concatenated(spec)(torch.zeros(1, 8, 5, 5)).shape
    torch.Size([1, 8, 5, 5])
    >>> Concatenated(spec).expand.weight.shape
    torch.Size([8, 6, 1, 1])

    Args:
        spec: the block to build.
    """

    form = "concatenated"

    def __init__(self, spec: BlockSpec) -> None:
        super().__init__(spec)
        self.branches = nn.ModuleList(
            nn.Sequential(
                OrderedDict(
                    reduce=_reduce(spec, spec.width),
                    transform=_transform(spec, spec.width, groups=1),
                )
            )
            for _ in range(spec.cardinality)
        )
        self.expand = _expand(spec, spec.hidden_channels, bias=spec.bias[2])
        self._add_tail(spec)

    def aggregated(self, x: Tensor) -> Tensor:
        """One expand convolution over the concatenated branches."""
        y: Tensor = self.expand(torch.cat([branch(x) for branch in self.branches], dim=1))
        return y


class Grouped(Block):
    """Fig. 3(c): one reduce, one grouped transform with C groups, one expand.

    >>> from equivalence import BlockSpec
    >>> spec = BlockSpec(in_channels=8, cardinality=2, width=3)
    >>> Grouped(spec)(torch.zeros(1, 8, 5, 5)).shape
    torch.Size([1, 8, 5, 5])
    >>> Grouped(spec).transform.conv.weight.shape
    torch.Size([6, 3, 3, 3])

    Args:
        spec: the block to build.
    """

    form = "grouped"

    def __init__(self, spec: BlockSpec) -> None:
        super().__init__(spec)
        self.reduce = _reduce(spec, spec.hidden_channels)
        self.transform = _transform(spec, spec.hidden_channels, groups=spec.cardinality)
        self.expand = _expand(spec, spec.hidden_channels, bias=spec.bias[2])
        self._add_tail(spec)

    def aggregated(self, x: Tensor) -> Tensor:
        """Reduce, transform in groups, expand."""
        y: Tensor = self.expand(self.transform(self.reduce(x)))
        return y


FORMS: dict[str, type[Block]] = {form.form: form for form in (PerBranch, Concatenated, Grouped)}


def _reduce(spec: BlockSpec, channels: int) -> nn.Sequential:
    conv = _conv(spec, spec.in_channels, channels, fan_out=spec.hidden_channels, bias=spec.bias[0])
    return _unit(spec, conv)


def _transform(spec: BlockSpec, channels: int, groups: int) -> nn.Sequential:
    conv = _conv(
        spec,
        channels,
        channels,
        fan_out=spec.kernel_size**spec.spatial_dims * spec.hidden_channels,
        bias=spec.bias[1],
        kernel_size=spec.kernel_size,
        stride=spec.stride,
        padding=spec.padding,
        dilation=spec.dilation,
        groups=groups,
    )
    return _unit(spec, conv)


def _expand(spec: BlockSpec, channels: int, *, bias: bool) -> nn.Module:
    return _conv(spec, channels, spec.out_channels, fan_out=spec.out_channels, bias=bias)


def _shortcut(spec: BlockSpec) -> nn.Module | None:
    if spec.shortcut == "none":
        return None
    if spec.shortcut == "identity":
        return nn.Identity()
    fan_out = spec.out_channels
    conv = _conv(
        spec, spec.in_channels, fan_out, fan_out=fan_out, bias=False, stride=spec.stride
    )  # fmt: skip
    return nn.Sequential(OrderedDict(conv=conv, norm=_norm(spec, fan_out, spec.output_norm_groups)))


def _unit(spec: BlockSpec, conv: nn.Module) -> nn.Sequential:
    """Convolution, norm, activation: what follows reduce and transform in every form."""
    channels: int = conv.out_channels  # type: ignore[assignment]  # an int on every convolution
    norm = _norm(spec, channels, groups=channels // spec.width * spec.norm_groups)
    return nn.Sequential(
        OrderedDict(conv=conv, norm=norm, activation=_activation(spec.activation))
    )  # fmt: skip


def _conv(
    spec: BlockSpec,
    in_channels: int,
    out_channels: int,
    *,
    fan_out: int,
    bias: bool,
    kernel_size: int = 1,
    **geometry: Any,
) -> nn.Module:
    convolution = _CONVOLUTIONS[spec.spatial_dims]
    conv = convolution(in_channels, out_channels, kernel_size, bias=bias, **geometry)
    if not conv.weight.is_meta:  # nothing to draw there, but drawing it would load the compiler
        nn.init.normal_(conv.weight, std=math.sqrt(2 / fan_out))
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def _norm(spec: BlockSpec, channels: int, groups: int) -> nn.Module:
    if spec.norm == "none":
        return nn.Identity()
    if spec.norm == "group":
        return nn.GroupNorm(groups, channels, eps=spec.eps)
    return _BATCH_NORMS[spec.spatial_dims](channels, eps=spec.eps, momentum=spec.momentum)


def _activation(name: str) -> nn.Module:
    """The module of a function of `torch.nn.functional`: relu → ReLU, leaky_relu → LeakyReLU."""
    return _ACTIVATION_MODULES[name.replace("_", "")]()


_ACTIVATION_MODULES: dict[str, type[nn.Module]] = {
    name.lower(): getattr(nn, name) for name in torch.nn.modules.activation.__all__
}
