"""What a module does to its input: every operation, with the tensors that flow between them.

Guarantee: the module is left as it was found. Buffers are lent as copies, modes are set and put
back, random generators are forked, and hooks that listen are global, so nothing is attached to it.
Tensors are followed by identity: a parameter is known by its name because it *is* that parameter,
and an operation that writes in place gives the tensor, and every view of its memory, a new value.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import sys
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from equivalence.blocks.recognition import dataless
from equivalence.blocks.recognition.dataflow import Call, Node, Ref, Trace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch._ops import OpOverload

# A counter that no network has, so that an average over all batches is told from a momentum.
COUNTED = 99_990


def trace(module: nn.Module, x: Tensor, *, training: bool) -> Trace:
    """Run a module once and write down what it does.

    >>> block = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True))
    >>> [node.op for node in trace(block, torch.zeros(2, 3, 5, 5), training=False).nodes]
    ['convolution', 'relu']

    Args:
        module: any module of one input.
        x: a small input `(N, C, H, W)`, on the module's device.
        training: whether it runs as in training.

    Returns:
        the trace, without any tensor in it.
    """
    buffers = {name: _lent(tensor) for name, tensor in module.named_buffers()}
    leaves = {**dict(module.named_parameters()), **buffers}
    recorder = _Recorder(leaves, module)
    with _left_alone(module, training), torch.no_grad(), _uncompiled(), recorder.listening():
        recorder.trace.input = recorder.value(x)
        with recorder:
            output = functional_call(module, buffers, (x,))
    recorder.trace.output = recorder.value(output) if isinstance(output, Tensor) else None
    return recorder.trace


def _lent(buffer: Tensor) -> Tensor:
    """A copy that may be written to; counters start at a number of ours, and are never without data."""
    if buffer.dim() == 0 and not buffer.is_floating_point():
        return torch.full((), COUNTED, dtype=buffer.dtype, device="cpu" if buffer.is_meta else buffer.device)
    if buffer.is_meta:
        return torch.empty_strided(buffer.shape, buffer.stride(), dtype=buffer.dtype, device="meta")
    return buffer.detach().clone()


@contextlib.contextmanager
def _left_alone(module: nn.Module, training: bool) -> Iterator[None]:
    """Modes are set one by one: a module's own `train` may keep some of its parts frozen."""
    modes = [(part, part.training) for part in module.modules()]
    of_python, of_numpy = random.getstate(), np.random.get_state()
    try:
        for part, _ in modes:
            part.training = training
        with torch.random.fork_rng():
            torch.manual_seed(0)
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)
        for part, was in modes:
            part.training = was


@contextlib.contextmanager
def _uncompiled() -> Iterator[None]:
    """What was compiled runs as it was written; where the compiler was never loaded nothing was."""
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*when there are global hooks")  # such as the ones that listen
        yield


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's class hook is untyped
    """Gives every tensor a number and every operation a node."""

    def __init__(self, leaves: dict[str, Tensor], module: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # likewise
        self.trace = Trace()
        self.kept: list[Tensor] = []  # what is alive keeps its identity
        self.numbers: dict[int, int] = {}
        self.views: dict[int, list[Tensor]] = {}
        self.fresh = itertools.count()
        self.paths = {id(part): name for name, part in reversed(list(module.named_modules()))}
        self.open: list[Call] = []
        for name, tensor in leaves.items():
            self.trace.names[self.value(tensor)] = name

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: torch would load its compiler, only to tell it to leave this class alone."""
        return False

    def value(self, tensor: Tensor) -> int:
        """The number of what a tensor holds now."""
        if id(tensor) not in self.numbers:
            self._know(tensor, next(self.fresh))
        return self.numbers[id(tensor)]

    def _know(self, tensor: Tensor, number: int) -> None:
        if id(tensor) not in self.numbers:
            self.kept.append(tensor)
            self.views.setdefault(tensor.untyped_storage()._cdata, []).append(tensor)
        self.numbers[id(tensor)] = number
        self.trace.shapes[number] = tuple(tensor.shape)

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Note the operation and run it."""
        kwargs = kwargs or {}
        noted = pytree.tree_map_only(Tensor, lambda t: Ref(self.value(t)), (args, kwargs))
        written = dataless.written_by(func, args, kwargs)
        result = dataless.run(func, args, kwargs, written)
        if func._schema.name in ("aten::detach", "aten::alias", "aten::lift_fresh"):
            self._know(result, noted[0][0].value)
            return result
        node = Node(len(self.trace.nodes), func, *noted)
        node.place = self.open[-1].path if self.open else ""
        self.trace.nodes.append(node)
        if written:
            node.outputs = tuple(self._rewrite(tensor, node) for tensor in written)
        else:
            outputs = [t for t in pytree.tree_leaves(result) if isinstance(t, Tensor)]
            node.outputs = tuple(self._returned(tensor, node) for tensor in outputs)
        return result

    def _returned(self, tensor: Tensor, node: Node) -> int:
        number = next(self.fresh)
        self._know(tensor, number)
        self.trace.producer[number] = node
        return number

    def _rewrite(self, tensor: Tensor, node: Node) -> int:
        """A new value for a tensor that was written to, and for every view of its memory."""
        number = self._returned(tensor, node)
        for view in self.views[tensor.untyped_storage()._cdata]:
            if view is tensor or self.numbers[id(view)] in self.trace.names:
                continue
            if _same_elements(view, tensor):
                self._know(view, number)
            else:
                self._returned(view, node)
        return number

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Note the calls of submodules too."""
        handles = [
            register_module_forward_pre_hook(self._enter),
            register_module_forward_hook(self._leave, always_call=True),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        x = args[0] if len(args) == 1 and isinstance(args[0], Tensor) else None
        path = self.paths.get(id(module), "?")
        shape = () if x is None else tuple(x.shape)
        call = Call(path, len(self.trace.nodes), None if x is None else self.value(x), shape)
        self.open.append(call)
        self.trace.calls.append(call)

    def _leave(self, _module: nn.Module, _args: Any, output: Any) -> None:
        call = self.open.pop()
        call.last = len(self.trace.nodes)
        call.returned = self.value(output) if isinstance(output, Tensor) else None


def _same_elements(a: Tensor, b: Tensor) -> bool:
    return (a.shape, a.stride(), a.storage_offset()) == (b.shape, b.stride(), b.storage_offset())
