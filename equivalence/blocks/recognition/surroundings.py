"""What is around a core: whether it is a shortcut that a spec can say, and which module holds it all.

Guarantee: a block is called plain only if its whole dataflow, in evaluation and in training mode,
is `activation(core(x) + shortcut(x))` with a shortcut of `BlockSpec`; then a form can stand in its
place. Around any other core there is something that stays as it is.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from equivalence.blocks.place import Place
from equivalence.blocks.recognition.activation import activation_of
from equivalence.blocks.recognition.channels import data_of, is_convolution
from equivalence.blocks.recognition.dataflow import Ref
from equivalence.blocks.recognition.errors import RecognitionError
from equivalence.blocks.recognition.norms import evaluated, has_all, is_batch_norm, is_norm, momentum, vectors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from equivalence.blocks.recognition.assemble import Core
    from equivalence.blocks.recognition.core import Finder
    from equivalence.blocks.recognition.dataflow import Call, Node
    from equivalence.blocks.spec import Shortcut


@dataclasses.dataclass(frozen=True)
class Around:
    """How a module's output follows from its core's.

    Attributes:
        shortcut: as in `BlockSpec`.
        projection: its convolution and its norm, if it is a projection.
    """

    shortcut: Shortcut
    projection: tuple[Node | None, Node | None] = (None, None)


def enclosing(finder: Finder, core: Core, others: list[Core]) -> list[Call]:
    """The calls of submodules that hold the core and no other, the smallest first."""
    nodes = set(core.nodes)
    inside = [call for call in finder.trace.calls if call.covers(nodes) and call.received is not None]
    alone = [c for c in inside if not any(c.covers(set(other.nodes)) for other in others if other is not core)]
    whole = [call for call in finder.trace.calls if call.path == "" and call.covers(nodes)]
    order = {id(call): i for i, call in enumerate(finder.trace.calls)}
    return sorted(alone, key=lambda call: (call.last - call.first, -order[id(call)])) or whole[:1]


def around(finder: Finder, core: Core, call: Call) -> Around | None:
    """How a call's result follows from the core, or None if no spec can say it."""
    if call.received != core.source or call.returned is None:
        return None
    channels, trace = finder.channels, finder.trace
    try:
        name, summed, _ = _last_activation(finder, core, call.returned)
    except RecognitionError:
        return None
    if name != core.activation:
        return None
    if summed == core.result:
        return Around("none")
    node = channels.made_by(summed)
    if node is None or node.op != "add" or node.argument("alpha") != 1:
        return None
    operands = [o.value for o in (node.argument("self"), node.argument("other")) if isinstance(o, Ref)]
    if len(operands) != 2 or core.result not in operands:
        return None
    operands.remove(core.result)
    other = operands[0]
    if other == core.source:
        return Around("identity") if trace.shapes[other] == trace.shapes[core.result] else None
    return _projection(finder, core, other)


def _last_activation(finder: Finder, core: Core, value: int) -> tuple[str, int, list[Node]]:
    """The activation that ends the block: the last operations that read one value only."""
    nodes, _ = finder.channels.stretch(value)
    for count in range(1, len(nodes) + 1):
        last = nodes[-count:]
        made = {output for node in last for output in node.outputs}
        read = {v for node in last for v in node.inputs if v not in made}
        if len(read) == 1:
            source = read.pop()
            if name := activation_of(finder.trace, last, source, value):
                return name, source, last
    raise RecognitionError("no activation ends the block")


def _projection(finder: Finder, core: Core, value: int) -> Around | None:
    """A 1×1 convolution of the input, with a norm if the core has norms."""
    channels = finder.channels
    norm = channels.made_by(value)
    if "norm" in core.steps:
        own = core.steps["norm"][0]
        if norm is None or not is_norm(norm) or not has_all(finder, norm):
            return None
        if evaluated(norm) != evaluated(own):
            return None
        conv = channels.made_by(data_of(norm))
    else:
        conv, norm = norm, None
    if conv is None or not is_convolution(conv) or data_of(conv) != core.source:
        return None
    strides = set(conv.argument("stride"))
    plain = (
        conv.argument("bias") is None
        and conv.argument("groups") == 1
        and not conv.argument("transposed")
        and not any(conv.argument("padding"))
        and set(finder.kernel(conv)) == {1}
        and strides == set(core.steps["transform.conv"][0].argument("stride"))
    )
    return Around("projection", (conv, norm)) if plain else None


def trains_alike(trained: tuple[Finder, Core], call: Call, found: Around) -> bool:
    """Whether a plain block is the same plain block in training mode."""
    finder, core = trained
    again = [c for c in finder.trace.calls if c.path == call.path and c.covers(set(core.nodes))]
    other = around(finder, core, again[0]) if again else None
    if other is None or other.shortcut != found.shortcut:
        return False
    norm = other.projection[1]
    return norm is None or momentum(finder, norm) == momentum(finder, core.steps["norm"][0])


def shortcut_places(finder: Finder, found: Around, counters: Mapping[str, str]) -> dict[str, Place]:
    """Where the projection's tensors live."""
    conv, norm = found.projection
    named: dict[str, str | None] = {}
    if conv is not None:
        named["shortcut.conv.weight"] = finder.channels.leaf(conv, "weight")
    if norm is not None:
        named |= {f"shortcut.norm.{q}": finder.channels.leaf(norm, q) for q in vectors(norm)}
        if is_batch_norm(norm):
            named["shortcut.norm.num_batches_tracked"] = counters.get(named["shortcut.norm.running_mean"] or "")
    axes = {"shortcut.conv.weight": "o i ...", "shortcut.norm.num_batches_tracked": ""}
    return {row: Place(name, axes.get(row, "o")) for row, name in named.items() if name is not None}
