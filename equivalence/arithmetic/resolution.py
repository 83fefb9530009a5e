"""From an operation without a rule of its own to one that follows from others.

In this order: a structural operation; `foo_` is `foo` written into its first argument; torch's decomposition,
whose steps are dispatched again. What is found is remembered, what is not found is an `UnsupportedOperation`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._decomp import decomposition_table
from torch._ops import OpOverload

from equivalence.arithmetic import structure
from equivalence.arithmetic.stacked import Rule, StackedTensor, unsupported


def resolve(cls: type[StackedTensor], func: OpOverload) -> Rule:
    rule = _find(cls, func)
    cls.rules[func] = rule
    return rule


def _find(cls: type[StackedTensor], func: OpOverload) -> Rule:
    if func in structure.rules:
        return structure.rules[func]
    name = func._schema.name.removeprefix("aten::")
    composite = func.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd)
    if func.is_view and not composite:  # a composite may copy instead, as `to` does
        return lambda *args, **kwargs: structure.viewed(func, *args, **kwargs)
    if name in structure.MOVES and func._overloadname != "out":
        return lambda *args, **kwargs: structure.moved(func, args, kwargs)
    if torch.Tag.nondeterministic_seeded in func.tags:
        return _refuse(func, "it draws random numbers, so two runs of one module differ; use eval()")
    if torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags:
        return _refuse(func, "the program's course depends on a value, which is known here for no input")
    functional = _functional(func, name)
    if functional is not None:
        inner = cls.rules.get(functional) or resolve(cls, functional)
        return _in_place(inner)
    if func in decomposition_table:
        return decomposition_table[func]
    if composite:
        return func.decompose
    return _refuse(func, "it has no exact rule")


def _refuse(func: OpOverload, reason: str) -> Rule:
    def rule(*args: Any, **kwargs: Any) -> Any:
        raise unsupported(func, reason)

    return rule


def _functional(func: OpOverload, name: str) -> OpOverload | None:
    """The operation that computes what this one writes into its first argument."""
    if not name.endswith("_") or name.endswith("__") or not func._schema.is_mutable:
        return None
    packet = getattr(torch.ops.aten, name[:-1], None)
    if packet is None or func._overloadname not in packet.overloads():
        return None
    found: OpOverload = getattr(packet, func._overloadname)
    return found


def _in_place(functional: Rule) -> Rule:
    def rule(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not isinstance(x, StackedTensor):
            return structure._copy_(x, None)  # type: ignore[no-any-return]
        value = functional(x, *args, **kwargs)
        if value.dtype != x.dtype:
            value = torch.ops.aten._to_copy.default(value, dtype=x.dtype)
        structure.write(x, value)
        return x

    return rule
