"""The notebook's BottleneckA, B and C, and the grouped twin of its A."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812  # torch's own name for it
from torch import Tensor, nn

from equivalence.blocks.notebook.deviations import NOTEBOOK, Deviations
from equivalence.blocks.notebook.units import BasicConv, SepConv

if TYPE_CHECKING:
    from collections.abc import Iterable


class _Branches(nn.Module):
    """What A and B share: C branches, which may all be one."""

    def __init__(self, in_channels: int, out_channels: int, cardinality: int, deviations: Deviations) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.cardinality = cardinality
        self.deviations = deviations
        if deviations.shared_branch:
            self.branch1 = self._branch()
        else:
            self.branches = nn.ModuleList(self._branch() for _ in range(cardinality))

    def _branch(self) -> nn.Sequential:
        """Reduce and transform."""
        return nn.Sequential(
            BasicConv(self.in_channels, self.out_channels, kernel_size=1),
            BasicConv(
                self.out_channels,
                self.out_channels,
                kernel_size=3,
                padding=1,
                bias=self.deviations.transform_bias,
            ),
        )

    def _each_branch(self) -> Iterable[nn.Module]:
        if self.deviations.shared_branch:
            return [self.branch1] * self.cardinality
        return self.branches


class BottleneckA(_Branches):
    """The notebook's structure (a): C branches are added to the input one after another.

    With `inplace_identity` a forward pass *writes into the caller's tensor* and returns it, as the
    notebook's did: pass a clone to keep the input. It cannot be trained either, because a backward
    pass needs the inputs that were overwritten. The one tensor is input, accumulator and shortcut
    at once, so that a norm after the sum (`norm_in_branches` off) normalises the shortcut too, and
    `relu_before_add` makes no difference there. With `norm_in_branches` the ReLUs before the
    addition are the branches' own; they stay when `relu_before_add` is off.

    >>> from equivalence.blocks.notebook import PAPER
    >>> block = BottleneckA(8, 3, cardinality=2)
    >>> x = torch.zeros(1, 8, 5, 5)
    >>> block(x) is x
    True
    >>> BottleneckA(8, 3, cardinality=2, deviations=PAPER)(x).shape
    torch.Size([1, 8, 5, 5])

    Args:
        in_channels: channels of the input and the output, `(N, C, H, W)`.
        out_channels: channels inside one branch.
        cardinality: number of branches.
        deviations: what to do as the notebook did; all five apply.

    Source: the seed notebook, and Fig. 3(a) of arXiv 1611.05431 with the deviations off.
    """

    def __init__(
        self,
        in_channels: int = 256,
        out_channels: int = 4,
        cardinality: int = 32,
        *,
        deviations: Deviations = NOTEBOOK,
    ) -> None:
        super().__init__(in_channels, out_channels, cardinality, deviations)
        if not deviations.norm_in_branches:
            self.norm = nn.BatchNorm2d(in_channels)

    def _branch(self) -> nn.Sequential:
        """Reduce, transform and expand."""
        if self.deviations.norm_in_branches:
            expand: nn.Module = BasicConv(self.out_channels, self.in_channels, kernel_size=1)
        else:
            expand = nn.Conv2d(self.out_channels, self.in_channels, kernel_size=1, bias=False)
        return super()._branch().append(expand)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` → `(N, C, H, W)`."""
        on = self.deviations
        identity = x
        if on.inplace_identity:
            for branch in self._each_branch():
                identity += branch(x)  # identity is x, so the next branch reads this sum
            y = identity
        else:
            y = torch.stack([branch(x) for branch in self._each_branch()]).sum(0)
        if not on.norm_in_branches:
            y = self.norm(y)
            if on.relu_before_add:
                y = F.relu(y)
        if not on.inplace_identity:
            y = y + identity
        return y if on.relu_before_add else F.relu(y)


class BottleneckB(_Branches):
    """The notebook's structure (b): C branches are concatenated and expanded at once.

    >>> BottleneckB(8, 3, cardinality=2)(torch.zeros(1, 8, 5, 5)).shape
    torch.Size([1, 8, 5, 5])

    Args:
        in_channels: channels of the input and the output, `(N, C, H, W)`.
        out_channels: channels inside one branch.
        cardinality: number of branches.
        deviations: what to do as the notebook did; of the five, `shared_branch`, `relu_before_add`
            and `transform_bias` apply, and the others change nothing.

    Source: the seed notebook, and Fig. 3(b) of arXiv 1611.05431 with the deviations off.
    """

    def __init__(
        self,
        in_channels: int = 256,
        out_channels: int = 4,
        cardinality: int = 32,
        *,
        deviations: Deviations = NOTEBOOK,
    ) -> None:
        super().__init__(in_channels, out_channels, cardinality, deviations)
        self.conv = nn.Sequential(
            BasicConv(
                out_channels * cardinality,
                in_channels,
                kernel_size=1,
                relu=deviations.relu_before_add,
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` → `(N, C, H, W)`."""
        y: Tensor = self.conv(torch.cat([branch(x) for branch in self._each_branch()], dim=1))
        y = y + x
        return y if self.deviations.relu_before_add else F.relu(y)


class BottleneckC(nn.Module):
    """The notebook's structure (c): the 3×3 convolution has one group for each branch.

    >>> BottleneckC(8, 6, groups=2)(torch.zeros(1, 8, 5, 5)).shape
    torch.Size([1, 8, 5, 5])

    Args:
        in_channels: channels of the input and the output, `(N, C, H, W)`.
        out_channels: channels of all groups together (in A and B it is those of one branch).
        groups: number of groups.
        deviations: what to do as the notebook did; of the five, `relu_before_add` and
            `transform_bias` apply, and the others change nothing.

    Source: the seed notebook, and Fig. 3(c) of arXiv 1611.05431 with the deviations off.
    """

    def __init__(
        self,
        in_channels: int = 256,
        out_channels: int = 128,
        groups: int = 32,
        *,
        deviations: Deviations = NOTEBOOK,
    ) -> None:
        super().__init__()
        self.deviations = deviations
        self.branch1 = nn.Sequential(
            SepConv(in_channels, out_channels, kernel_size=1),
            SepConv(
                out_channels,
                out_channels,
                kernel_size=3,
                padding=1,
                groups=groups,
                bias=deviations.transform_bias,
            ),
            SepConv(out_channels, in_channels, kernel_size=1, relu=deviations.relu_before_add),
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` → `(N, C, H, W)`."""
        y: Tensor = self.branch1(x) + x
        return y if self.deviations.relu_before_add else F.relu(y)


class BottleneckATwin(nn.Module):
    """The grouped form that the notebook's A *does* have, given independent branches.

    Its norm and ReLU come before the sum over groups, as A's come before the sum over branches. It
    is the same function as `BottleneckA` with `shared_branch` and `inplace_identity` off when each
    of its tensors holds those of A's branches side by side on axis 0.

    >>> twin = BottleneckATwin(8, 3, cardinality=2)
    >>> twin(torch.zeros(1, 8, 5, 5)).shape
    torch.Size([1, 8, 5, 5])
    >>> twin.branch1[2].conv[0].weight.shape
    torch.Size([16, 3, 1, 1])

    Args:
        in_channels: channels of the input and the output, `(N, C, H, W)`.
        out_channels: channels inside one branch, as in A.
        cardinality: number of groups.

    Source: the seed notebook's structure (a), with its branches run as groups.
    """

    def __init__(self, in_channels: int = 256, out_channels: int = 4, cardinality: int = 32) -> None:
        super().__init__()
        self.cardinality = cardinality
        hidden = out_channels * cardinality
        self.branch1 = nn.Sequential(
            SepConv(in_channels, hidden, kernel_size=1),
            SepConv(hidden, hidden, kernel_size=3, groups=cardinality, padding=1, bias=True),
            SepConv(hidden, in_channels * cardinality, kernel_size=1, groups=cardinality),
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` → `(N, C, H, W)`."""
        groups: Tensor = self.branch1(x).unflatten(1, (self.cardinality, -1))
        return groups.sum(1) + x
