"""Running a module without leaving a trace.

Guarantee: whatever a module does to itself while it is observed (attributes, modes, parameters,
buffers, gradients and whether they are required) and whatever it draws from the random generators is
undone, bit for bit, also when it fails. Only tensors that did change are written back, so that
graphs which a user still holds stay valid.
"""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, MutableMapping

    from torch import Tensor, nn


@contextlib.contextmanager
def as_found(*modules: nn.Module) -> Iterator[None]:
    """Undo on leaving all that happens to the modules inside.

    >>> norm = torch.nn.BatchNorm1d(2)
    >>> with as_found(norm):
    ...     _ = norm.train()(torch.randn(8, 2))
    >>> norm.running_mean
    tensor([0., 0.])

    Args:
        modules: the modules to bring back as they are now.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(random_state())
        for module in modules:
            stack.callback(_restorer(module))
        yield


@contextlib.contextmanager
def random_state() -> Iterator[None]:
    """Undo on leaving all that is drawn from Python's, NumPy's and torch's global generators."""
    of_python, of_numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)


def seed_everything(seed: int) -> None:
    """Let Python's, NumPy's and torch's global generators start over."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # modules draw from the global generator
    # Not torch.manual_seed: its first call loads the compiler, which takes seconds.
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)


class _restorer:  # noqa: N801  # a closure with memory
    """Calling it gives a module back its attributes, modes, tensors and gradients."""

    def __init__(self, module: nn.Module) -> None:
        parts = list(module.modules())
        self.slots: list[tuple[MutableMapping[str, Any], dict[str, Any]]] = [
            (slot, dict(slot)) for part in parts for slot in (part._parameters, part._buffers)
        ]
        # Whether a part is training is one of its attributes.
        self.attributes = [(part.__dict__, dict(part.__dict__)) for part in parts]
        held = {id(t): t for _, slot in self.slots for t in slot.values() if t is not None}
        self.leaves = [(t, t.requires_grad, t.grad) for t in held.values() if t.is_leaf]
        held |= {id(gradient): gradient for *_, gradient in self.leaves if gradient is not None}
        self.memory = [(tensor, tensor.detach()) for tensor in held.values()]
        self.groups = _by_kind(held.values())
        self.before = [_joined(tensors) for tensors in self.groups]

    def __call__(self) -> None:
        for attributes, known in self.attributes:
            if attributes.keys() != known.keys() or _identities(attributes) != _identities(known):
                attributes.clear()
                attributes.update(known)
        for slot, held in self.slots:
            slot.clear()
            slot.update(held)
        for tensor, memory in self.memory:
            if (tensor.data_ptr(), tensor.dtype) != (memory.data_ptr(), memory.dtype):
                tensor.data = memory
        for leaf, requires_grad, gradient in self.leaves:
            if leaf.requires_grad != requires_grad:
                leaf.requires_grad_(requires_grad)
            if leaf.grad is not gradient:
                leaf.grad = gradient
        for tensors, before in zip(self.groups, self.before, strict=True):
            if not torch.equal(_bits(_joined(tensors)), _bits(before)):
                _write_back(tensors, before)


def _identities(attributes: dict[str, Any]) -> list[int]:
    return list(map(id, attributes.values()))


def _by_kind(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """Tensors of one dtype and device together: handling them as one is what makes this cheap."""
    groups: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    return list(groups.values())


def _joined(tensors: list[Tensor]) -> Tensor:
    """A copy of all values, one after the other."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def _write_back(tensors: list[Tensor], before: Tensor) -> None:
    """Undo what changed; what did not is left alone."""
    values = torch.split(before, [tensor.numel() for tensor in tensors])
    with torch.no_grad():
        for tensor, value in zip(tensors, values, strict=True):
            if not torch.equal(_bits(_joined([tensor])), _bits(value)):
                tensor.copy_(value.view(tensor.shape))


def _bits(tensor: Tensor) -> Tensor:
    """Bytes: they tell +0 from -0, and NaN is equal to itself."""
    return tensor.contiguous().view(torch.uint8)
