"""A real photograph as an input: what floats are compared on, because noise is nobody's data.

Guarantee: the same shape gives the same picture. Where scikit-learn is not installed, the picture is
made instead, with flat regions, edges and texture, and its name says so.
"""

from __future__ import annotations

import importlib
import importlib.util

import torch
from torch import Tensor
from torch.nn import functional


def photograph(shape: tuple[int, ...]) -> tuple[Tensor, str]:
    """A picture `(N, C, H, W)` with mean 0 and deviation 1, and what it is called.

    >>> image, name = photograph((1, 3, 32, 32))
    >>> image.shape
    torch.Size([1, 3, 32, 32])

    Args:
        shape: `(N, C, H, W)`, or fewer or more spatial axes.
    """
    _, channels, *sizes = shape
    whole, name = _scene()
    picture = functional.interpolate(whole[None], (sizes[0], sizes[-1]), mode="bilinear", antialias=True)[0]
    picture = picture.repeat(-(-channels // 3), 1, 1)[:channels]
    if len(sizes) == 1:
        picture = picture[:, 0]
    elif len(sizes) == 3:
        picture = picture[:, :, None].expand(channels, *sizes[:1], sizes[0], sizes[-1])
        picture = picture[:, :, :, :1].expand(channels, *sizes) if sizes[1] == 1 else picture[:, :, : sizes[1]]
    picture = (picture - picture.mean()) / picture.std()
    return picture.expand(shape).contiguous(), name


def _scene() -> tuple[Tensor, str]:
    """The whole scene, `(3, H, W)`."""
    if importlib.util.find_spec("sklearn") is not None:
        datasets = importlib.import_module("sklearn.datasets")
        image = torch.from_numpy(datasets.load_sample_image("china.jpg").copy())
        return image.permute(2, 0, 1).float(), "a photograph (scikit-learn's china.jpg)"
    y, x = torch.meshgrid(torch.linspace(0, 1, 427), torch.linspace(0, 1, 640), indexing="ij")
    disc = ((x - 0.6) ** 2 + (y - 0.4) ** 2 < 0.04).float()
    texture = torch.sin(90 * x * y) * (y > 0.6)
    return torch.stack([x + disc, y + texture, x * y - disc]), "a generated picture (scikit-learn has photographs)"
