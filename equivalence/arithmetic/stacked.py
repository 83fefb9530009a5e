"""A tensor that stands for several numbers per element, below autograd.

A `StackedTensor` presents shape, strides and dtype of an ordinary tensor and keeps its numbers in `parts`, whose
leading axis enumerates them (residues of K primes; a value and its error). Autograd, modules, hooks and optimisers
run on it unchanged, because every operation reaches `__torch_dispatch__` after autograd is done with it.

What is guaranteed:
* An operation is computed by a rule registered for it, or moves elements without computing (`structure`), or is
  torch's own decomposition into such operations, or writes the result of one of those in place. There is no
  fourth way: anything else raises `UnsupportedOperation`.
* Views share `parts`' storage and the `state` object, so writing through a view is seen by all.
* What is remembered about a value (`companion`) is dropped when its storage is written to.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch._ops import OpOverload, OpOverloadPacket

from equivalence.arithmetic.errors import UnsupportedOperation
from equivalence.arithmetic.location import current_submodule

Rule = Callable[..., Any]


class State(Protocol):
    """What all views of one storage know together; `version` counts the writes to it."""

    version: int

    def absorb(self, other: Any) -> None: ...


class Companion:
    """Tensors known to belong to a value's elements, valid while the value is not written to."""

    __slots__ = ("kind", "note", "tensors", "version")

    def __init__(self, kind: Any, tensors: tuple[Tensor, ...], version: int, note: Any = None) -> None:
        self.kind = kind
        self.tensors = tensors
        self.version = version
        self.note = note  # whatever else the arithmetic has to know about them


class Arithmetic(abc.ABC):
    """The context of a run: how constants enter and what a result knows. One registry of rules per subclass."""

    rules: ClassVar[dict[OpOverload, Rule]] = {}
    count: int
    device: torch.device

    def __init_subclass__(cls) -> None:
        cls.rules = {}

    @classmethod
    def rule(cls, *ops: OpOverload | OpOverloadPacket) -> Callable[[Rule], Rule]:
        """Registers a function as the meaning of operations (of every overload, for a packet)."""

        def register(function: Rule) -> Rule:
            for op in ops:
                if isinstance(op, OpOverload):
                    cls.rules[op] = function
                else:
                    for name in op.overloads():  # type: ignore[no-untyped-call]  # torch leaves it untyped
                        if "out" not in name:
                            cls.rules[getattr(op, name)] = function
            return function

        return register

    @abc.abstractmethod
    def constant(self, value: Tensor | float, dtype: torch.dtype | None = None) -> StackedTensor:
        """A plain tensor or number as a tensor of this arithmetic, exactly."""

    @abc.abstractmethod
    def wrap(self, parts: Tensor, state: Any, dtype: torch.dtype) -> Any:
        """A tensor of this arithmetic, from its parts and what is known of them."""

    @abc.abstractmethod
    def joined(self, tensors: Sequence[StackedTensor]) -> Any:
        """The state of a fresh tensor that holds elements of several."""


class StackedTensor(torch.Tensor):
    arithmetic: Any
    parts: Tensor
    state: Any
    companion: Companion | None = None
    rules: ClassVar[dict[OpOverload, Rule]]

    @classmethod
    def make(cls, arithmetic: Arithmetic, parts: Tensor, state: Any, dtype: torch.dtype) -> Any:
        self = _make_wrapper(
            cls,
            parts.shape[1:],
            strides=parts.stride()[1:],
            storage_offset=parts.storage_offset(),
            dtype=dtype,
            device=arithmetic.device,
        )
        self.arithmetic = arithmetic
        self.parts = parts
        self.state = state
        return self

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]  # named differently
        return f"{type(self).__name__}(shape={tuple(self.shape)}, dtype={self.dtype})"

    def known(self, kind: Any) -> tuple[Tensor, ...] | None:
        """The companion's tensors, if there is one of this kind and it is still true."""
        companion = self.companion
        if companion is not None and companion.kind == kind and companion.version == self.state.version:
            return companion.tensors
        return None

    def remember(self, kind: Any, *tensors: Tensor, note: Any = None) -> None:
        self.companion = Companion(kind, tensors, self.state.version, note)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch declares it by an implementation that takes no class
        cls,
        func: OpOverload,
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        rule = cls.rules.get(func)
        if rule is None:
            from equivalence.arithmetic.resolution import resolve

            rule = resolve(cls, func)
        return rule(*args, **kwargs) if kwargs else rule(*args)


_make_wrapper = torch.Tensor._make_wrapper_subclass


def unsupported(op: OpOverload | str, reason: str) -> UnsupportedOperation:
    return UnsupportedOperation(str(op), reason, current_submodule())
