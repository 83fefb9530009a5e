"""Operations that move elements without computing: the same on every part, whatever the parts mean.

A view stays a view: the result's parts are a view of the argument's parts and the two share their state. What is
known about the elements (`companion`) moves along with them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from equivalence.arithmetic.movement import moved as moved  # part of this room's interface
from equivalence.arithmetic.stacked import Companion, Rule, StackedTensor, unsupported

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch._ops import OpOverload

aten = torch.ops.aten
rules: dict[OpOverload, Rule] = {}


def _with_parts(x: Any, parts: Tensor, move: Callable[[Tensor], Tensor], *, shared: bool) -> Any:
    state = x.state if shared else x.arithmetic.joined([x])
    result = x.arithmetic.wrap(parts, state, x.dtype)
    old = x.companion
    if old is not None and old.version == x.state.version:
        result.companion = Companion(old.kind, tuple(move(t) for t in old.tensors), state.version, old.note)
    return result


def _move(*ops: OpOverload, shared: bool = True) -> Callable[[Callable[..., Tensor]], Rule]:
    """Registers a function of the parts (leading axis included) as the meaning of one-tensor operations."""

    def register(function: Callable[..., Tensor]) -> Rule:
        def rule(x: StackedTensor, *args: Any, **kwargs: Any) -> Any:
            parts = function(x.parts, *args, **kwargs)
            return _with_parts(x, parts, lambda p: function(p, *args, **kwargs), shared=shared)

        for op in ops:
            rules[op] = rule
        return rule

    return register


def inner(dim: int) -> int:
    """The axis of `parts` that is axis `dim` of the tensor."""
    return dim + 1 if dim >= 0 else dim


def detach(x: Any) -> Any:
    result = x.arithmetic.wrap(x.parts, x.state, x.dtype)
    result.__dict__.update(x.__dict__)
    return result


rules[aten.detach.default] = rules[aten.alias.default] = rules[aten.lift_fresh.default] = detach


@_move(aten.view.default, aten._unsafe_view.default)
def _view(p: Tensor, size: Sequence[int]) -> Tensor:
    return p.view(p.shape[0], *size)


@_move(aten.expand.default)
def _expand(p: Tensor, size: Sequence[int], *, implicit: bool = False) -> Tensor:
    missing = len(size) + 1 - p.dim()
    if missing:
        p = p[(slice(None),) + (None,) * missing]
    return p.expand(p.shape[0], *size)


@_move(aten.permute.default)
def _permute(p: Tensor, dims: Sequence[int]) -> Tensor:
    rank = p.dim() - 1
    return p.permute(0, *(d % rank + 1 for d in dims))


@_move(aten.t.default)
def _t(p: Tensor) -> Tensor:
    return p.transpose(1, 2) if p.dim() == 3 else p


@_move(aten.transpose.int)
def _transpose(p: Tensor, first: int, second: int) -> Tensor:
    return p.transpose(inner(first), inner(second))


@_move(aten.slice.Tensor)
def _slice(p: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Tensor:
    return torch.ops.aten.slice.Tensor(p, inner(dim), start, end, step)  # type: ignore[no-any-return]


@_move(aten.select.int)
def _select(p: Tensor, dim: int, index: int) -> Tensor:
    return p.select(inner(dim), index)


@_move(aten.unsqueeze.default)
def _unsqueeze(p: Tensor, dim: int) -> Tensor:
    return p.unsqueeze(inner(dim))


@_move(aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims)
def _squeeze(p: Tensor, dim: int | Sequence[int] | None = None) -> Tensor:
    dims = range(p.dim() - 1) if dim is None else (dim,) if isinstance(dim, int) else dim
    return p.squeeze(tuple(inner(d) for d in dims)) if p.dim() > 1 else p


@_move(aten.as_strided.default)
def _as_strided(p: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None) -> Tensor:
    offset = p.storage_offset() if storage_offset is None else storage_offset
    return p.as_strided((p.shape[0], *size), (p.stride(0), *stride), offset)


@_move(aten.clone.default, shared=False)
def _clone(p: Tensor, *, memory_format: torch.memory_format | None = None) -> Tensor:
    if memory_format in (torch.channels_last, torch.channels_last_3d):
        return p.movedim(2, -1).contiguous().movedim(-1, 2)
    if memory_format is torch.contiguous_format:
        return p.clone(memory_format=torch.contiguous_format)
    return p.clone()


def _lifted(tensors: Sequence[Tensor]) -> list[Any]:
    context = next(t.arithmetic for t in tensors if isinstance(t, StackedTensor))
    return [t if isinstance(t, StackedTensor) else context.constant(t) for t in tensors]


def _joining(op: Callable[..., Tensor]) -> Rule:
    def rule(tensors: Sequence[Tensor], dim: int = 0) -> Any:
        xs = _lifted(tensors)
        context = xs[0].arithmetic
        dtype = xs[0].dtype
        for x in xs[1:]:
            dtype = torch.promote_types(dtype, x.dtype)
        return context.wrap(op([x.parts for x in xs], inner(dim)), context.joined(xs), dtype)

    return rule


rules[aten.cat.default] = _joining(torch.cat)
rules[aten.stack.default] = _joining(torch.stack)


def _copy_(x: Any, source: Any, non_blocking: bool = False) -> Any:
    if not isinstance(x, StackedTensor):
        raise unsupported(
            "aten.copy_",
            "exact values are written into a plain float tensor, which cannot hold them; make that tensor from "
            "one that is passed in (torch.zeros_like, Tensor.new_zeros) or register it as a buffer",
        )
    if not isinstance(source, StackedTensor):
        source = x.arithmetic.constant(source)
    if source.dtype != x.dtype:
        source = torch.ops.aten._to_copy.default(source, dtype=x.dtype)
    write(x, source)
    return x


rules[aten.copy_.default] = _copy_


def write(x: Any, value: Any) -> None:
    """Stores another tensor's elements (broadcast) into this one's storage: all views of it see them."""
    parts = value.parts
    missing = x.parts.dim() - parts.dim()
    if missing > 0:
        parts = parts[(slice(None),) + (None,) * missing]
    x.parts.copy_(parts)
    x.state.absorb(value.state)
    known = value.companion
    x.companion = None
    if known is not None and known.version == value.state.version and value.shape == x.shape:
        x.companion = Companion(known.kind, known.tensors, x.state.version, known.note)


def strided_parts(count: int, size: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Zeros of a given layout, one after the other for each part."""
    extent = 1 + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) if math.prod(size) else 0
    flat = torch.zeros(count * extent, dtype=torch.float64)
    return flat.as_strided((count, *size), (extent, *stride))
