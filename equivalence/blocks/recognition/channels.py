"""Which channels of which value a value is made of, and what stands between two values.

Guarantee: concatenating, slicing and splitting along channels are bookkeeping and never an
operation of a block, so branches laid side by side and branches kept apart look the same from here
on. Everything else that happens to a value is an operation, and is shown as such.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from equivalence.blocks.recognition.activation import activation_of
from equivalence.blocks.recognition.dataflow import Node, Ref, Trace
from equivalence.blocks.recognition.errors import RecognitionError
from equivalence.blocks.recognition.norms import is_norm

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclasses.dataclass(frozen=True)
class Piece:
    """Channels `low` to `low + size` of a value."""

    value: int
    low: int
    size: int


def is_convolution(node: Node | None) -> bool:
    """Whether a node is a convolution."""
    return node is not None and node.op.endswith("convolution")


class Channels:
    """Questions about the channels of a trace's values."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self._made_of: dict[int, list[Piece]] = {}

    def made_by(self, value: int) -> Node | None:
        """The node whose result a value is; none for leaves and for values written in part."""
        node = self.trace.producer.get(value)
        return node if node is not None and value in node.outputs else None

    def pieces(self, value: int, low: int = 0, size: int | None = None) -> list[Piece]:
        """Where channels of a value come from, through concatenations and slices."""
        size = self.trace.shapes[value][1] - low if size is None else size
        if value not in self._made_of:
            node = self.made_by(value)
            self._made_of[value] = list(self._inner(node, value)) if node is not None else []
        inner = self._made_of[value]
        if not inner:
            return [Piece(value, low, size)]
        found: list[Piece] = []
        at = 0
        for part in inner:
            start, stop = max(low, at), min(low + size, at + part.size)
            if start < stop:
                found += self.pieces(part.value, part.low + start - at, stop - start)
            at += part.size
        return join(found)

    def _inner(self, node: Node, value: int) -> Iterator[Piece]:
        """The pieces that a node lays side by side to make a value; nothing if it does other things."""
        shapes, channels = self.trace.shapes, self.trace.shapes[value][1:2]
        reads = node.inputs
        if node.op == "clone":
            yield Piece(reads[0], 0, channels[0])
        elif node.op == "cat" and node.argument("dim") in (1, 1 - len(shapes[value])):
            for read in reads:
                yield Piece(read, 0, shapes[read][1])
        elif node.op in ("split", "split_with_sizes") and node.argument("dim") in (1, 1 - len(shapes[value])):
            before = node.outputs[: node.outputs.index(value)]
            yield Piece(reads[0], sum(shapes[v][1] for v in before), channels[0])
        elif node.op == "slice" and node.argument("step") == 1:
            low = node.argument("start") or 0
            if node.argument("dim") in (1, 1 - len(shapes[value])):
                yield Piece(reads[0], low % shapes[reads[0]][1] if low < 0 else low, channels[0])
            elif shapes[reads[0]] == shapes[value]:
                yield Piece(reads[0], 0, channels[0])

    def bookkeeping(self, node: Node) -> bool:
        """Whether a node only lays channels side by side or takes some of them."""
        return (
            bool(node.outputs)
            and len(self.trace.shapes[node.outputs[0]]) > 1
            and any(True for _ in self._inner(node, node.outputs[0]))
        )

    def stretch(self, value: int) -> tuple[list[Node], list[int]]:
        """The operations between the last convolutions, norms or inputs and a value, and where they start."""
        nodes: dict[int, Node] = {}
        sources: dict[int, None] = {}
        waiting = [value]
        while waiting:
            current = waiting.pop()
            node = self.made_by(current)
            if node is None or is_convolution(node) or is_norm(node) or self.bookkeeping(node):
                sources[current] = None
            elif node.index not in nodes:
                nodes[node.index] = node
                waiting += node.inputs
        return [nodes[index] for index in sorted(nodes)], list(sources)

    def activation(self, value: int, what: str) -> tuple[str, int, list[Node]]:
        """The activation that made a value, the value it acts on, and its operations.

        Raises:
            RecognitionError: if no activation of a spec made it.
        """
        trace = self.trace
        nodes, sources = self.stretch(value)
        if not nodes:
            raise RecognitionError(f"no activation stands {what}", self._place(value))
        place = trace.place(nodes[-1])
        if len(sources) != 1 or sources[0] in trace.names:
            reason = self._not_elementwise(nodes, sources, what)
            raise RecognitionError(reason, place, 2 if "gate" in reason else 1)
        name = activation_of(trace, nodes, sources[0], value)
        if name is None:
            done = ", ".join(dict.fromkeys(node.op for node in nodes))
            raise RecognitionError(f"what stands {what} ({done}) is no activation that a spec can name", place)
        return name, sources[0], nodes

    def _not_elementwise(self, nodes: list[Node], sources: list[int], what: str) -> str:
        """Words for a stretch that depends on more than one value."""
        ops = [node.op for node in nodes]
        leaves = [self.trace.names[s] for s in sources if s in self.trace.names]
        if any("layer_norm" in op for op in ops):
            return f"a layer norm stands {what}: its statistics are of the channels of all branches together"
        data = [s for s in sources if s not in self.trace.names]
        if len(data) == 1:
            return f"what stands {what} has weights of its own ({', '.join(leaves)})"
        if "mul" in ops:
            return f"a gate stands {what}: channels are scaled by what all branches computed together"
        if ops[-1] == "add":
            return f"a sum stands {what}: a branch reads more than the block's input"
        return f"what stands {what} ({', '.join(dict.fromkeys(ops))}) mixes several values"

    def _place(self, value: int) -> str:
        node = self.trace.producer.get(value)
        return "" if node is None else self.trace.place(node)

    def leaf(self, node: Node, *argument: str) -> str | None:
        """The name of the parameter or buffer that is an argument, None where there is none.

        Raises:
            RecognitionError: if the argument is computed.
        """
        given = node.argument(*argument)
        if given is None:
            return None
        name = self.trace.names.get(given.value) if isinstance(given, Ref) else None
        if name is None:
            raise RecognitionError(
                f"{argument[0]} of {node.op} is computed, not a parameter or buffer; "
                "remove what computes it (a parametrisation, a cast) first",
                self.trace.place(node),
                6,
            )
        return name


def data_of(node: Node) -> int:
    """The value that a convolution or norm works on."""
    value: int = node.argument("input", "self").value
    return value


def join(pieces: list[Piece]) -> list[Piece]:
    """Neighbours that were taken apart, put together again."""
    joined: list[Piece] = []
    for piece in pieces:
        last = joined[-1] if joined else None
        if last is not None and last.value == piece.value and last.low + last.size == piece.low:
            joined[-1] = Piece(last.value, last.low, last.size + piece.size)
        else:
            joined.append(piece)
    return joined
