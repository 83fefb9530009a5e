"""What a check has to know of a module before it runs it.

Guarantee: nothing here runs or changes a module.
"""

from __future__ import annotations

import itertools
import sys
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, as copies that may be written to."""
    named = itertools.chain(module.named_parameters(), module.named_buffers())
    return {name: tensor.detach().clone() for name, tensor in named}


def base_dtype(*modules: nn.Module) -> torch.dtype:
    """The narrowest float dtype of any parameter or buffer: a cast to it loses nothing."""
    dtypes = {t.dtype for m in modules for t in itertools.chain(m.parameters(), m.buffers()) if t.is_floating_point()}
    return max(dtypes, key=lambda dtype: torch.finfo(dtype).eps, default=torch.float32)


def device_of(module: nn.Module) -> torch.device:
    """Where the module's first tensor is."""
    tensors = itertools.chain(module.parameters(), module.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def original(module: nn.Module) -> nn.Module:
    """A compiled module's own code: what the arithmetics that need no kernel run."""
    compiler = sys.modules.get("torch._dynamo.eval_frame")  # whoever compiled a module has loaded it
    if compiler is None or not isinstance(module, compiler.OptimizedModule):
        return module
    own = module._orig_mod
    return own if isinstance(own, nn.Module) else module


def shares_tensors(module: nn.Module) -> bool:
    """Whether one parameter or buffer has several names, as tied weights have."""
    held = [
        id(t)
        for part in module.modules()
        for slot in (part._parameters, part._buffers)
        for t in slot.values()
        if t is not None
    ]
    return len(set(held)) < len(held)
