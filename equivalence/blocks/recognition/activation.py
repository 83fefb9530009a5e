"""Which activation a stretch of operations is, found by running it and not by its spelling.

Guarantee: the stretch and the function that is named agree on every element of tensors in float64,
across both signs, the kinks and many magnitudes. So `clamp`, `x * (x > 0)` and `relu_` are one
activation, and a leaky ReLU with a slope that a spec cannot say is none. The tensors have several
positions and channels whatever was traced: a mean over a 1×1 map would look like nothing at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils import _pytree as pytree

from equivalence.blocks.recognition.dataflow import Node, Ref, Trace
from equivalence.blocks.spec import ACTIVATIONS

if TYPE_CHECKING:
    from collections.abc import Mapping

_KINKS = (-6.0, -3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0, 6.0)
# Running a stretch is what costs; the same stretch is met in every branch of every block.
_KNOWN: dict[Any, str | None] = {}


def activation_of(trace: Trace, nodes: list[Node], source: int, result: int) -> str | None:
    """The name of the activation that takes one value to another, or None if it is none.

    Args:
        trace: where the values come from.
        nodes: the operations between them, in order.
        source: the value that goes in.
        result: the value that comes out.

    Returns:
        a function of `torch.nn.functional`, as in `BlockSpec.activation`.
    """
    if not nodes or trace.shapes[source] != trace.shapes[result]:
        return None
    dims = len(trace.shapes[source]) - 2
    key = (dims, *_signature(nodes, source))
    if key not in _KNOWN:
        _KNOWN[key] = _named(nodes, source, result, dims)
    return _KNOWN[key]


def _named(nodes: list[Node], source: int, result: int, dims: int) -> str | None:
    candidates = list(ACTIVATIONS)
    for x in _probes((4, 5, *[4] * dims)):
        try:
            y = replay(nodes, {source: x})[result]
        except (RuntimeError, KeyError, TypeError):
            return None
        candidates = [name for name in candidates if _agree(getattr(functional, name)(x), y)]
    return candidates[0] if candidates else None


def replay(nodes: list[Node], values: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """Run operations again on other tensors; none of those given is written to."""
    known = dict(values)
    with torch.no_grad():
        for node in nodes:
            mutable = node.func._schema.is_mutable

            def given(ref: Ref, mutable: bool = mutable) -> Tensor:
                return known[ref.value].clone() if mutable else known[ref.value]

            args, kwargs = pytree.tree_map_only(Ref, given, (node.args, node.kwargs))
            results = pytree.tree_leaves(node.func(*args, **kwargs))
            tensors = [tensor for tensor in results if isinstance(tensor, Tensor)]
            known.update(zip(node.outputs, tensors, strict=False))
    return known


def _signature(nodes: list[Node], source: int) -> tuple[Any, ...]:
    """What makes two stretches the same whatever their values are numbered."""
    numbers: dict[int, int] = {source: 0}
    said: list[Any] = []
    for node in nodes:
        noted = pytree.tree_map_only(Ref, lambda r: ("value", numbers.get(r.value)), (node.args, node.kwargs))
        said.append((str(node.func), repr(noted)))
        for output in node.outputs:
            numbers[output] = len(numbers)
    return tuple(said)


def _probes(shape: tuple[int, ...]) -> list[Tensor]:
    """Tensors that hold the kinks and numbers of many sizes."""
    generator = torch.Generator().manual_seed(0)

    def any_of(values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64)[torch.randint(0, len(values), shape, generator=generator)]

    return [
        torch.where(
            torch.rand(shape, generator=generator) < 0.25,
            any_of(_KINKS),
            torch.randn(shape, generator=generator, dtype=torch.float64) * any_of((0.1, 1.0, 10.0)),
        )
        for _ in range(4)
    ]


def _agree(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b.to(a.dtype), rtol=1e-12, atol=1e-13)
