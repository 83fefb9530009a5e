"""Operations on tensors without data: what they would return, found without torch's compiler.

Guarantee: results have the shape and dtype that the operation gives on the CPU, and no data; nothing
of the size of a weight is ever in memory. What depends on the data fails, as it does on torch's meta
device. That device's own rules are not used, because they load the compiler. The common operations
have rules here; any other is run on tensors that have one number in every place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch._ops import OpOverload

_ON_DATA = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


def run(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], written: Sequence[Tensor]) -> Any:
    """The result of an operation.

    Args:
        func, args, kwargs: the call.
        written: the tensors that it writes to.
    """
    has_data = not any(leaf.is_meta for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
    if has_data or func.is_view or _ON_DATA & set(func.tags):
        return func(*args, **kwargs)
    if written:
        return written[0] if len(written) == 1 else tuple(written)
    if (rule := _RULES.get(func._schema.name)) is not None:
        return rule(*args, **kwargs)
    given = pytree.tree_map_only(torch.device, lambda _: torch.device("cpu"), (args, kwargs))
    if torch.Tag.pointwise in func.tags:
        shape = np.broadcast_shapes(*(leaf.shape for leaf in pytree.tree_leaves(given) if isinstance(leaf, Tensor)))
        few = pytree.tree_map_only(Tensor, lambda t: torch.zeros([1] * t.dim(), dtype=t.dtype), given)
        return _empty(shape, func(*few[0], **few[1]).dtype)
    given = pytree.tree_map_only(Tensor, _stand_in, given)
    result = func(*given[0], **given[1])
    return pytree.tree_map_only(Tensor, lambda t: _empty(t.shape, t.dtype), result)


class WithoutData(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's class hook is untyped
    """While it lasts, operations on tensors without data are run as above."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # likewise

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: torch would load its compiler, only to tell it to leave this class alone."""
        return False

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation, on its data if all tensors have some."""
        return run(func, args, kwargs or {}, written_by(func, args, kwargs or {}))


def written_by(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors that an operation writes to."""
    written = []
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = args[i] if i < len(args) else kwargs.get(argument.name)
            written += [t for t in pytree.tree_leaves(given) if isinstance(t, Tensor)]
    return written


def _stand_in(tensor: Tensor) -> Tensor:
    """One number in every place, which is all the memory that it takes."""
    return torch.zeros((), dtype=tensor.dtype).expand(tensor.shape) if tensor.is_meta else tensor


def _empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.empty(tuple(shape), dtype=dtype, device="meta")


def _product(*args: Any, **_: Any) -> Tensor:
    left, right = args[-2:]
    return _empty((left.shape[0], right.shape[1]), left.dtype)


def _norm(x: Tensor, *given: Any) -> tuple[Tensor, Tensor, Tensor]:
    kept = x.shape[1] if given[4] else 0  # statistics of the batch, in training mode
    return _empty(x.shape, x.dtype), _empty([kept], x.dtype), _empty([kept], x.dtype)


def _group_norm(x: Tensor, _weight: Any, _bias: Any, n: int, _c: int, _size: int, groups: int, _: float) -> Any:
    return _empty(x.shape, x.dtype), _empty((n, groups), x.dtype), _empty((n, groups), x.dtype)


def _convolution(
    x: Tensor,
    weight: Tensor,
    _bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Tensor:
    """A tensor of the shape that a convolution returns: running it would copy its weight."""
    channels = weight.shape[1] * groups if transposed else weight.shape[0]
    expected = weight.shape[0] if transposed else weight.shape[1] * groups
    if x.dim() != weight.dim() or x.shape[1] != expected or channels % groups:
        raise RuntimeError(f"a weight of shape {tuple(weight.shape)} does not fit an input of {tuple(x.shape)}")
    dims = len(weight.shape) - 2
    given = (_for_each(values, dims) for values in (stride, padding, dilation, output_padding))
    sizes = [
        (size - 1) * s - 2 * p + d * (k - 1) + o + 1 if transposed else (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, k, s, p, d, o in zip(x.shape[2:], weight.shape[2:], *given, strict=True)
    ]
    if min(sizes) < 1:
        raise RuntimeError(f"an input of {tuple(x.shape)} is too small for a kernel of {tuple(weight.shape[2:])}")
    return _empty((x.shape[0], channels, *sizes), x.dtype)


def _for_each(values: Sequence[int], dims: int) -> Sequence[int]:
    return list(values) * dims if len(values) == 1 else values


# Running these would take memory: for copies of their weights, or for what they return.
_RULES: dict[str, Callable[..., Any]] = {
    "aten::convolution": _convolution,
    "aten::mm": _product,
    "aten::addmm": _product,
    "aten::native_batch_norm": _norm,
    "aten::native_group_norm": _group_norm,
}
