"""Which activation a stretch of operations is, found by running it and not by its spelling.

Guarantee: the stretch and the function that is named agree on every element of several tensors of
the shape that was traced, in float64, across both signs, the kinks and many magnitudes. So `clamp`,
`x * (x > 0)` and `relu_` are one activation, a gate that mixes positions or channels is none, and
neither is a leaky ReLU with a slope that a spec cannot say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils import _pytree as pytree

from equivalence.blocks.recognition.trace import Node, Ref, Trace
from equivalence.blocks.spec import ACTIVATIONS

if TYPE_CHECKING:
    from collections.abc import Mapping

_KINKS = (-6.0, -3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0, 6.0)
_ENOUGH = 256


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
    candidates = list(ACTIVATIONS)
    for x in _probes(trace.shapes[source]):
        try:
            y = replay(nodes, {source: x})[result]
        except (RuntimeError, KeyError, TypeError, NotImplementedError):
            return None
        candidates = [name for name in candidates if _agree(getattr(functional, name)(x), y)]
    return candidates[0] if candidates else None


def replay(nodes: list[Node], values: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """Run operations again on other tensors; none of those given is written to."""
    known = dict(values)
    with torch.no_grad():
        for node in nodes:
            mutable = node.func._schema.is_mutable
            args, kwargs = pytree.tree_map_only(
                Ref,
                lambda ref, mutable=mutable: known[ref.value].clone() if mutable else known[ref.value],
                (node.args, node.kwargs),
            )
            results = pytree.tree_leaves(node.func(*args, **kwargs))
            tensors = [tensor for tensor in results if isinstance(tensor, Tensor)]
            known.update(zip(node.outputs, tensors, strict=False))
    return known


def signature(nodes: list[Node], source: int, shape: tuple[int, ...]) -> Any:
    """What makes two stretches the same whatever their values are numbered."""
    numbers: dict[int, int] = {source: 0}
    said: list[Any] = [shape]
    for node in nodes:
        noted = pytree.tree_map_only(Ref, lambda r: ("value", numbers.get(r.value)), (node.args, node.kwargs))
        said.append((str(node.func), repr(noted)))
        for output in node.outputs:
            numbers[output] = len(numbers)
    return tuple(said)


def _probes(shape: tuple[int, ...]) -> list[Tensor]:
    """Tensors that hold the kinks and numbers of many sizes, mixed anew in each."""
    generator = torch.Generator().manual_seed(0)
    count = max(shape[0] * 1, 1)
    for size in shape[1:]:
        count *= size
    probes = []
    for _ in range(max(2, -(-_ENOUGH // count))):
        drawn = torch.randn(count, generator=generator, dtype=torch.float64)
        drawn *= torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)[
            torch.randint(0, 3, (count,), generator=generator)
        ]
        kinks = torch.tensor(_KINKS, dtype=torch.float64)[torch.randint(0, len(_KINKS), (count,), generator=generator)]
        at_kink = torch.rand(count, generator=generator) < 0.25
        probes.append(torch.where(at_kink, kinks, drawn).view(shape))
    return probes


def _agree(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b.to(a.dtype), rtol=1e-12, atol=1e-13)
