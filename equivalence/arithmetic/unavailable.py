"""A result that an operation must return but that has no exact value, such as the position of a maximum.

It may be passed around and dropped. Whoever computes with it gets an `UnsupportedOperation`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

from equivalence.arithmetic.stacked import _make_wrapper, unsupported

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch._ops import OpOverload


class Unavailable(torch.Tensor):
    what: str

    @staticmethod
    def make(shape: Sequence[int], what: str) -> Unavailable:
        self: Unavailable = _make_wrapper(Unavailable, tuple(shape), dtype=torch.int64)
        self.what = what
        return self

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]  # named differently
        return f"Unavailable({self.what!r})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch declares it by an implementation that takes no class
        cls,
        func: OpOverload,
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func.is_view and isinstance(args[0], cls):
            shapes = torch.empty(args[0].shape, device="meta")
            what = args[0].what
            return pytree.tree_map(lambda v: cls.make(v.shape, what), func(shapes, *args[1:], **(kwargs or {})))
        what = next((a.what for a in args if isinstance(a, cls)), "an argument")
        raise unsupported(func, f"{what} has no exact value")
