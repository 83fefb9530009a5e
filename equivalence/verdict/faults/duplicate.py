"""Copies of blocks, fast: every planted fault needs one, and a block in branches has hundreds of submodules.

Guarantee: the copy is the one that `copy.deepcopy` makes; only what cannot change is not walked through.
"""

from __future__ import annotations

import collections
import copy
from types import FunctionType
from typing import Any, TypeVar

from torch import Tensor, nn

from equivalence.blocks.spec import BlockSpec

M = TypeVar("M", bound=nn.Module)
_UNCHANGING = {type(None), bool, int, float, str, FunctionType, BlockSpec}
_MAPPINGS = (dict, collections.OrderedDict)
_OURS = ("torch.nn.", "equivalence.")  # a class of somebody else's may say how it is copied


def duplicate(module: M) -> M:
    """A deep copy of a module.

    >>> layer = nn.Conv2d(4, 4, 1)
    >>> copied = duplicate(layer)
    >>> copied.weight is layer.weight, copied.weight.equal(layer.weight)
    (False, True)

    Args:
        module: any module; it stays as it is.
    """
    copied: M = _copied(module, {})
    return copied


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    kind: Any = type(value)
    if kind in _UNCHANGING or (kind is tuple and _UNCHANGING.issuperset(map(type, value))):
        return value
    if id(value) in memo:
        return memo[id(value)]
    if kind in _MAPPINGS:
        made = kind((key, _copied(held, memo)) for key, held in value.items()) if value else kind()
    elif kind is nn.Parameter:
        made = nn.Parameter(value.detach().clone(), value.requires_grad)  # without the gradient, as torch does
    elif kind is Tensor and not (value.requires_grad or value.grad is not None or value._is_view()):
        made = value.clone()
    elif kind is set and not value:
        made = set()
    elif isinstance(value, nn.Module) and kind.__module__.startswith(_OURS):
        made = memo[id(value)] = kind.__new__(kind)
        made.__dict__.update({name: _copied(held, memo) for name, held in vars(value).items()})
    else:
        return copy.deepcopy(value, memo)
    memo[id(value)] = made
    return made
