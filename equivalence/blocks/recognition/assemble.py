"""From channels that were followed to a block: who computes which branch, and with what geometry.

Guarantee: a `Core` that exists is one of the three forms, or a mixture of them; nothing outside
reads what is inside, and no weight serves two of its operations. What does not fit raises
`RecognitionError`, which names the reason and the place.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from equivalence.blocks.recognition.channels import Channels, Piece, data_of
from equivalence.blocks.recognition.errors import RecognitionError
from equivalence.blocks.recognition.norms import is_norm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from equivalence.blocks.recognition.core import Finder
    from equivalence.blocks.recognition.dataflow import Node

STAGES = ("reduce", "transform")
STEPS = ("reduce.conv", "reduce.norm", "transform.conv", "transform.norm", "expand", "norm")


@dataclasses.dataclass(frozen=True)
class Track:
    """Hidden channels on their way back: where they are, and what they came through.

    Attributes:
        at: the piece of a value that they are now.
        offset: their first channel among all hidden channels, branch by branch.
        passed: what made them, each with the first channel in its output: "transform.conv",
            "transform.norm", and an activation such as "transform.relu".
    """

    at: Piece
    offset: int
    passed: tuple[tuple[str, Node, int], ...] = ()

    def through(self, name: str, node: Node) -> Track:
        """The same channels after noting what made them."""
        return dataclasses.replace(self, passed=(*self.passed, (name, node, self.at.low)))

    def back(self, channels: Channels, value: int) -> list[Track]:
        """The same channels in the value that theirs was made of, channel by channel."""
        tracks, done = [], 0
        for piece in channels.pieces(value, self.at.low, self.at.size):
            passed = tuple((name, node, low + done) for name, node, low in self.passed)
            tracks.append(Track(piece, self.offset + done, passed))
            done += piece.size
        return tracks


@dataclasses.dataclass(frozen=True)
class Sum:
    """A sum of expand convolutions in the order of its terms, and of biases added by themselves."""

    value: int
    terms: tuple[Node, ...]
    biases: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Core:
    """The part of a block that has three forms.

    Attributes:
        source: the value that every branch reads.
        result: the value after the norm that follows the sum.
        cardinality, width: number of branches, and channels in one.
        steps: the nodes of each of `STEPS` in branch order: one for all branches or one each; no
            norms where the block has none.
        bias: name of the parameter that is added to the sum by itself, if any.
        activation: the one after reduce and after transform.
        nodes: indices of all operations inside.
    """

    source: int
    result: int
    cardinality: int
    width: int
    steps: dict[str, list[Node]]
    bias: str | None
    activation: str
    nodes: frozenset[int]


def assemble(finder: Finder, summed: Sum, transformed: list[Track], reduced: list[Track]) -> Core:
    """The core that the tracks belong to.

    Args:
        finder: whose trace it is.
        summed: the expand convolutions.
        transformed: hidden channels, followed back to the transform convolutions.
        reduced: hidden channels, followed back to the reduce convolutions.

    Raises:
        RecognitionError: if they make no block.
    """
    place = finder.trace.place(summed.terms[0])
    hidden = sum(track.at.size for track in transformed)
    transforms = _nodes(transformed, "transform.conv")
    groups = [node.argument("groups") for node in transforms]
    if len(transforms) > 1 and set(groups) != {1}:
        raise RecognitionError("several transform convolutions are grouped themselves", place, 4)
    cardinality = groups[0] if len(transforms) == 1 else len(transforms)
    if hidden % cardinality:
        raise RecognitionError(f"branches have different shapes: {hidden} channels in {cardinality}", place, 4)
    steps = {name: _layout(finder, name, reduced, cardinality, hidden) for name in STEPS[:4] if _nodes(reduced, name)}
    if len(summed.terms) not in (1, cardinality):
        terms = len(summed.terms)
        raise RecognitionError(f"{terms} expand convolutions are summed over {cardinality} branches", place, 4)
    steps["expand"] = list(summed.terms)
    norm, result = _norm_after(finder, summed, place)
    steps |= {"norm": [norm]} if norm else {}
    _normed_alike(steps, place)
    source = _source(finder, steps, place)
    nodes = frozenset(_between(finder, source, result))
    core = Core(
        source=source,
        result=result,
        cardinality=cardinality,
        width=hidden // cardinality,
        steps=steps,
        bias=_bias(summed, place),
        activation=_activation(reduced, place),
        nodes=nodes,
    )
    _closed(finder, core)
    return core


def _nodes(tracks: list[Track], name: str) -> list[Node]:
    """The nodes that the tracks passed under a name, once each, in branch order."""
    found = {node.index: node for track in tracks for passed, node, _ in track.passed if passed == name}
    return list(found.values())


def _layout(finder: Finder, name: str, tracks: list[Track], cardinality: int, hidden: int) -> list[Node]:
    """The nodes of a step: one that holds all hidden channels in order, or one for each branch."""
    nodes = _nodes(tracks, name)
    trace, width = finder.trace, hidden // cardinality
    sizes = [trace.shapes[node.outputs[0]][1] for node in nodes]
    place = trace.place(nodes[0])
    if len(nodes) == 1 and sizes == [hidden]:
        starts = {nodes[0].index: 0}
    elif len(nodes) == cardinality and set(sizes) == {width}:
        starts = {node.index: branch * width for branch, node in enumerate(nodes)}
    elif len(nodes) == cardinality:
        raise RecognitionError(f"branches have different shapes: widths {sorted(set(sizes))} in {name}", place, 4)
    elif len(nodes) < cardinality and sum(sizes) < hidden:
        few = f"{len(nodes)} × {name} for {cardinality}"
        raise RecognitionError(f"weights are shared between branches: {few}", place, 4)
    else:
        raise RecognitionError(f"{len(nodes)} × {name} cannot be laid out over {cardinality} branches", place, 4)
    for track in tracks:
        for passed, node, low in track.passed:
            if passed == name and starts[node.index] + low != track.offset:
                raise RecognitionError(f"channels of {name} are in another order than its branches", place, 4)
    return nodes


def _norm_after(finder: Finder, summed: Sum, place: str) -> tuple[Node | None, int]:
    """The norm after the sum, if there is one, and the value that the core ends in."""
    users = finder.trace.users(summed.value)
    norms = [user for user in users if is_norm(user)]
    if not norms:
        return None, summed.value
    if len(users) > 1:
        raise RecognitionError("the sum over branches is read by more than the norm after it", place, 4)
    return norms[0], norms[0].outputs[0]


def _normed_alike(steps: dict[str, list[Node]], place: str) -> None:
    """Every convolution has a norm after it, or none has."""
    normed = [name in steps for name in ("reduce.norm", "transform.norm", "norm")]
    if normed == [True, True, False]:
        raise RecognitionError(
            "no norm follows the sum over branches, as in pre-activation blocks: norm and activation "
            "come before the convolutions there",
            place,
            5,
        )
    if len(set(normed)) > 1:
        which = [s for s, n in zip(("reduce", "transform", "expand"), normed, strict=True) if n]
        raise RecognitionError(f"a norm follows {' and '.join(which)} only, not every convolution", place, 5)


def _source(finder: Finder, steps: dict[str, list[Node]], place: str) -> int:
    """The one value that all branches read."""
    for node in steps["reduce.conv"]:
        if set(finder.kernel(node)) != {1}:
            kernel = "×".join(map(str, finder.kernel(node)))
            raise RecognitionError(
                f"only two convolutions, or none that reduces: a {kernel} convolution feeds the transform "
                "where a 1×1 reduce should be",
                finder.trace.place(node),
                3,
            )
        if (groups := node.argument("groups")) != 1:
            raise RecognitionError(
                f"the 1×1 reduce is grouped ({groups} groups): a branch would see only a part of the input",
                finder.trace.place(node),
                5,
            )
    sources = {finder.channels.pieces(data_of(node))[0].value for node in steps["reduce.conv"]}
    read = {data_of(node) for node in steps["reduce.conv"]}
    if len(read) > 1 or len(sources) > 1:
        raise RecognitionError("branches read different inputs", place, 5)
    return read.pop()


def _between(finder: Finder, source: int, result: int) -> Iterator[int]:
    """The operations between two values."""
    seen, waiting = set(), [result]
    while waiting:
        value = waiting.pop()
        node = finder.trace.producer.get(value)
        if value != source and node is not None and node.index not in seen:
            seen.add(node.index)
            waiting += node.inputs
            yield node.index


def _bias(summed: Sum, place: str) -> str | None:
    own = [node for node in summed.terms if node.argument("bias") is not None]
    if len(summed.biases) + len(own) > 1:
        raise RecognitionError("several biases are added to one sum, which has one in the other forms", place, 5)
    return summed.biases[0] if summed.biases else None


def _activation(tracks: list[Track], place: str) -> str:
    """The activation after reduce and transform."""
    names = {
        name.partition(".")[2]: name.partition(".")[0]
        for track in tracks
        for name, _, _ in track.passed
        if name.partition(".")[2] not in ("conv", "norm")
    }
    if len(names) > 1:
        raise RecognitionError(f"activations differ: {', '.join(f'{n} after {s}' for n, s in names.items())}", place, 5)
    return next(iter(names))


def _closed(finder: Finder, core: Core) -> None:
    """Nothing outside reads what is inside."""
    trace = finder.trace
    for index in core.nodes:
        for value in trace.nodes[index].outputs:
            if value == core.result:
                continue
            outside = [user for user in trace.users(value) if user.index not in core.nodes]
            if outside or value == trace.output:
                where = trace.place(outside[0]) if outside else ""
                reader = f"a {outside[0].op}" if outside else "the output"
                raise RecognitionError(f"{reader} outside the branches reads what is inside them", where, 6)
