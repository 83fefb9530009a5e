"""What the tools that people reach for say of the same pair.

Guarantee: each is called with its defaults on the two output tensors, and one that is not installed is left out.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


def _assert_close(left: Tensor, right: Tensor) -> bool:
    try:
        torch.testing.assert_close(left, right)
    except AssertionError:
        return False
    return True


def _numpy(left: Tensor, right: Tensor) -> bool:
    return left.shape == right.shape and bool(np.allclose(left.numpy(), right.numpy()))


def _allclose(left: Tensor, right: Tensor) -> bool:
    return left.shape == right.shape and torch.allclose(left, right)


def _polygraphy(left: Tensor, right: Tensor) -> bool:
    comparator: Any = importlib.import_module("polygraphy.comparator")
    # The older name is deprecated where the newer one is there.
    newer = getattr(comparator, "SimpleCompareFunc", None)
    compare = newer() if newer else comparator.CompareFunc.simple()
    logger: Any = importlib.import_module("polygraphy.logger")
    sides = [
        comparator.IterationResult({"output": tensor.numpy()}, runner_name=name)
        for name, tensor in (("left", left), ("right", right))
    ]
    with logger.G_LOGGER.verbosity(logger.G_LOGGER.CRITICAL):
        return bool(compare(*sides)["output"])


_KNOWN: dict[str, tuple[str, Callable[[Tensor, Tensor], bool]]] = {
    "torch.allclose": ("torch", _allclose),
    "assert_close": ("torch", _assert_close),
    "numpy.allclose": ("numpy", _numpy),
    "polygraphy": ("polygraphy", _polygraphy),
}


def others() -> dict[str, Callable[[Tensor, Tensor], bool]]:
    """The tools that are installed: whether each takes two outputs for the same.

    >>> [name for name in others() if name != "polygraphy"]
    ['torch.allclose', 'assert_close', 'numpy.allclose']
    """
    return {name: says for name, (package, says) in _KNOWN.items() if importlib.util.find_spec(package)}
