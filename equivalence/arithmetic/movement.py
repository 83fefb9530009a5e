"""Any operation that only moves elements, without knowing which: torch itself says where they go.

A view is asked for on a tensor without data, and its strides are taken over by parts. Every other operation runs
once on the *positions* of the elements, and the numbers follow. An operation that only adds elements up runs on each
part by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from equivalence.arithmetic.stacked import StackedTensor, unsupported

if TYPE_CHECKING:
    from torch._ops import OpOverload

# Operations that are no views but only copy, reorder, repeat or drop elements, or put zeros among them.
MOVES = frozenset(
    [
        "flip",
        "roll",
        "rot90",
        "index",
        "index_select",
        "gather",
        "take_along_dim",
        "repeat",
        "repeat_interleave",
        "tril",
        "triu",
        "masked_select",
        "select_backward",
        "slice_backward",
        "diagonal_backward",
        "select_scatter",
        "slice_scatter",
        "diagonal_scatter",
        "diag_embed",
        "pixel_shuffle",
        "pixel_unshuffle",
        "channel_shuffle",
        "reflection_pad1d",
        "reflection_pad2d",
        "reflection_pad3d",
        "replication_pad1d",
        "replication_pad2d",
        "replication_pad3d",
        "upsample_nearest1d",
        "upsample_nearest2d",
        "upsample_nearest3d",
        "im2col",
        "index_copy",
        "tile",
    ]
)


def viewed(func: OpOverload, x: Any, *args: Any, **kwargs: Any) -> Any:
    """A view without a rule above: torch says on a tensor without data which strides it has, parts take them."""
    parts = x.parts
    stride = parts.stride()
    extent = parts.storage_offset() + sum((n - 1) * t for n, t in zip(x.shape, stride[1:], strict=True)) + 1
    probe = torch.empty(max(extent, 0), device="meta", dtype=torch.float64)
    probe = probe.as_strided(x.shape, stride[1:], parts.storage_offset())

    def wrap(v: Tensor) -> Any:
        strided = parts.as_strided((parts.shape[0], *v.shape), (stride[0], *v.stride()), v.storage_offset())
        return x.arithmetic.wrap(strided, x.state, x.dtype)

    return pytree.tree_map(wrap, func(probe, *args, **kwargs))


def moved(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An operation that moves elements, done by moving their numbers: position 0 is a zero, the rest are elements."""
    flat, spec = pytree.tree_flatten((args, kwargs))
    context = next(a.arithmetic for a in flat if isinstance(a, StackedTensor))
    if any(isinstance(a, StackedTensor) and not a.dtype.is_floating_point for a in flat[1:]):
        raise unsupported(func, "which elements are taken depends on a value; use torch.where")
    sources: list[Any] = []
    taken = 1
    for i, a in enumerate(flat):
        if isinstance(a, Tensor) and (isinstance(a, StackedTensor) or a.is_floating_point()):
            source = a if isinstance(a, StackedTensor) else context.constant(a)
            positions = torch.arange(taken, taken + source.numel(), dtype=torch.float64)
            flat[i] = positions.view(source.shape)
            sources.append(source)
            taken += source.numel()
    new_args, new_kwargs = pytree.tree_unflatten(flat, spec)
    joined = [s.parts.reshape(s.parts.shape[0], -1) for s in sources]
    elements = torch.cat([torch.zeros(context.count, 1, dtype=torch.float64), *joined], 1)

    def wrap(positions: Tensor) -> Any:
        parts = elements[:, positions.reshape(-1).to(torch.int64)].view(-1, *positions.shape)
        return context.wrap(parts, context.joined(sources), sources[0].dtype)

    return pytree.tree_map(wrap, func(*new_args, **new_kwargs))


def on_each_part(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Any]:
    """The operation on every part by itself, for sums of elements; and the first stacked argument."""
    flat, spec = pytree.tree_flatten((args, kwargs))
    first = next(a for a in flat if isinstance(a, StackedTensor))
    results = []
    for k in range(first.arithmetic.count):
        own = [a.parts[k] if isinstance(a, StackedTensor) else a for a in flat]
        new_args, new_kwargs = pytree.tree_unflatten(own, spec)
        results.append(func(*new_args, **new_kwargs))
    return torch.stack(results), first
