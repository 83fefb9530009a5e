"""Weights such as training leaves them, drawn from a seed.

Guarantee: no scalar of a norm has the value that a fresh one has. Fresh statistics (mean 0,
variance 1) and fresh affine parameters (gamma 1, beta 0) are the same in every channel, so a
comparison of fresh blocks cannot see a slice of them that went astray.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import nn


def as_if_trained(module: nn.Module, seed: int) -> nn.Module:
    """Draw statistics, affine parameters and biases in place; weights of convolutions stay.

    >>> norm = torch.nn.BatchNorm2d(3)
    >>> bool((as_if_trained(norm, seed=0).running_var == 1).any())
    False

    Args:
        module: any module; its norms and biases are drawn anew.
        seed: of everything drawn.

    Returns:
        the module itself.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = {"running_var": (0.5, 2.0), "running_mean": (-0.5, 0.5), "bias": (-0.5, 0.5)}
    for part in module.modules():
        weight = getattr(part, "weight", None)
        scales_channels = isinstance(weight, torch.Tensor) and weight.dim() == 1
        ranges = drawn | ({"weight": (0.5, 1.5)} if scales_channels else {})
        with torch.no_grad():
            for name, (low, high) in ranges.items():
                tensor = getattr(part, name, None)
                if isinstance(tensor, torch.Tensor):
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
            if isinstance(counter := getattr(part, "num_batches_tracked", None), torch.Tensor):
                counter.fill_(100)
    return module
