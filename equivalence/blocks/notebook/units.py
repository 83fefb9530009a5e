"""The notebook's convolution, norm and ReLU in one module, under its names."""

from __future__ import annotations

from torch import Tensor, nn


class SepConv(nn.Module):
    """Convolution (in groups), norm and ReLU.

    >>> import torch
    >>> SepConv(8, 6, kernel_size=3, groups=2, padding=1)(torch.zeros(1, 8, 5, 5)).shape
    torch.Size([1, 6, 5, 5])

    Args:
        in_channels: channels of the input `(N, C, H, W)`.
        out_channels: channels of the output.
        kernel_size: extent of the convolution.
        groups: groups of the convolution.
        padding: zeros on each side.
        bias: whether the convolution has a bias.
        relu: whether the ReLU follows, as it always does in the notebook.

    Source: the seed notebook.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        groups: int = 1,
        padding: int = 0,
        bias: bool = False,
        *,
        relu: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(
                in_channels,
                out_channels,
                kernel_size=kernel_size,
                padding=padding,
                groups=groups,
                bias=bias,
            ),
            nn.BatchNorm2d(out_channels),
            *([nn.ReLU(inplace=True)] if relu else []),
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C_in, H, W)` → `(N, C_out, H, W)`, smaller by what padding does not replace."""
        y: Tensor = self.conv(x)
        return y


class BasicConv(SepConv):
    """A `SepConv`, under the name that the notebook gives it where there is one group.

    >>> import torch
    >>> BasicConv(8, 6, kernel_size=1)(torch.zeros(1, 8, 5, 5)).shape
    torch.Size([1, 6, 5, 5])

    Source: the seed notebook.
    """
