"""Finding reduce → transform → expand in a dataflow, whatever it is called and however it is cut.

Guarantee: a `Core` that exists is one of the three forms, or a mixture of them: every hidden
channel was followed backwards from the expand convolutions to the reduce convolutions through one
activation, one norm and one convolution at a time, all in the same branch; nothing else reads what
is inside; and no two branches share a weight. What does not fit raises `RecognitionError`.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

from equivalence.blocks.recognition.assemble import Core, Sum, Track, assemble
from equivalence.blocks.recognition.channels import Channels, data_of, is_convolution
from equivalence.blocks.recognition.dataflow import Ref
from equivalence.blocks.recognition.errors import RecognitionError
from equivalence.blocks.recognition.norms import is_norm

if TYPE_CHECKING:
    from equivalence.blocks.recognition.dataflow import Node, Trace

Stage = Literal["reduce", "transform"]


class Finder:
    """Looks for cores in a trace."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.channels = Channels(trace)
        self.failures: list[tuple[RecognitionError, set[int]]] = []
        self._visited: set[int] = set()
        self._known: dict[int, bool] = {}

    def cores(self) -> list[Core]:
        """Every core, in the order of the network; what was nearly one is in `failures`."""
        found: list[Core] = []
        taken: set[int] = set()
        for node in self.trace.nodes:
            if is_convolution(node) and self.pointwise(node) and node.index not in taken:
                core = self._attempt(node)
                if core is not None and not core.nodes & taken:
                    found.append(core)
                    taken |= core.nodes
        return found

    def _attempt(self, expand: Node) -> Core | None:
        self._visited = {expand.index}
        try:
            return assemble(self, *self._followed(expand))
        except RecognitionError as error:
            self.failures.append((error, self._visited))
            return None

    def _hidden(self, expand: Node) -> list[Track]:
        """The hidden channels that an expand convolution reads, back to their transform convolution."""
        tracks = [Track(piece, 0) for piece in self.channels.pieces(data_of(expand))]
        return self._step_back(tracks, "transform", "between transform and expand")

    def _step_back(self, tracks: list[Track], stage: Stage, what: str) -> list[Track]:
        """Through one activation, at most one norm, to a convolution."""
        back: list[Track] = []
        for track in tracks:
            try:
                name, source, nodes = self.channels.activation(track.at.value, what)
            except RecognitionError as error:
                error.progress += len(track.passed)
                self._visit_before(track.at.value)
                raise
            self._visited.update(node.index for node in nodes)
            noted = dataclasses.replace(track, passed=(*track.passed, (f"{stage}.{name}", nodes[-1], track.at.low)))
            back += noted.back(self.channels, source)
        return [t for track in back for t in self._convolved(track, stage, what)]

    def _convolved(self, track: Track, stage: Stage, what: str) -> list[Track]:
        node = self.channels.made_by(track.at.value)
        if is_norm(node) and node is not None:
            self._visited.add(node.index)
            normed = track.through(f"{stage}.norm", node).back(self.channels, data_of(node))
            return [t for n in normed for t in self._convolved_bare(n, stage, what)]
        return self._convolved_bare(track, stage, what)

    def _convolved_bare(self, track: Track, stage: Stage, what: str) -> list[Track]:
        node = self.channels.made_by(track.at.value)
        if node is None or not is_convolution(node):
            op = "the input" if node is None else f"a {node.op}"
            reason = f"{op} stands {what} where the {stage} convolution should be"
            if stage == "reduce":
                reason = f"only two convolutions: {op} feeds the transform, where a 1×1 reduce should be"
            raise RecognitionError(reason, self._place(node), len(track.passed))
        self._visited.add(node.index)
        return [track.through(f"{stage}.conv", node)]

    def _place(self, node: Node | None) -> str:
        return "" if node is None else self.trace.place(node)

    def _visit_before(self, value: int) -> None:
        """Note the convolutions that a failed stretch starts from, so that the failure is theirs."""
        nodes, sources = self.channels.stretch(value)
        self._visited.update(node.index for node in nodes)
        for source in sources:
            if node := self.channels.made_by(source):
                self._visited.add(node.index)
                if is_norm(node):
                    below = self.channels.made_by(self.channels.pieces(data_of(node))[0].value)
                    self._visited.update([below.index] if below else [])

    def _followed(self, expand: Node) -> tuple[Sum, list[Track], list[Track]]:
        """The sum that a convolution belongs to, and its hidden channels back to both convolutions before."""
        summed = self._summed(expand)
        offset, hidden = 0, []
        for term in summed.terms:
            self._visited.add(term.index)
            for piece in self.channels.pieces(data_of(term)):
                hidden.append(Track(piece, offset))
                offset += piece.size
        transformed = self._step_back(hidden, "transform", "between transform and expand")
        reduced = self._step_back(self._into(transformed), "reduce", "between reduce and transform")
        return summed, transformed, reduced

    def _into(self, tracks: list[Track]) -> list[Track]:
        """From the outputs of transform convolutions to their inputs, group by group."""
        found: list[Track] = []
        shapes = {self.trace.shapes[t.passed[-1][1].argument("weight").value] for t in tracks}
        if len(shapes) > 1:
            raise RecognitionError(
                "branches have different shapes, or some hidden channels pass the transform by: "
                f"what feeds the expand has weights of shapes {sorted(shapes)}",
                self.trace.place(tracks[0].passed[-1][1]),
                len(tracks[0].passed),
            )
        for track in tracks:
            node = track.passed[-1][1]
            read = data_of(node)
            groups = node.argument("groups")
            inputs, outputs = self.trace.shapes[read][1], self.trace.shapes[node.outputs[0]][1]
            if inputs != outputs:
                raise RecognitionError(
                    f"the transform convolution takes {inputs} channels to {outputs}, but a branch keeps its width",
                    self.trace.place(node),
                    len(track.passed),
                )
            if track.at.low % (inputs // groups) or track.at.size % (inputs // groups):
                raise RecognitionError("a branch is cut into parts", self.trace.place(node), len(track.passed))
            found += track.back(self.channels, read)
        return found

    def _summed(self, expand: Node) -> Sum:
        """The greatest sum of expand convolutions that one of them belongs to."""
        found = Sum(expand.outputs[0], (expand,))
        while True:
            for user in self.trace.users(found.value):
                users = self.trace.users(user.outputs[0]) if user.op == "stack" else [user]
                results = [value for u in users for value in u.outputs]
                if len(results) == 1 and (larger := self._terms(results[0])):
                    found = larger
                    break
            else:
                return found

    def _terms(self, value: int) -> Sum | None:
        """What a value is the sum of, or None if that is not expand convolutions and at most one bias."""
        node = self.channels.made_by(value)
        if node is None:
            return None
        if is_convolution(node):
            return Sum(value, (node,)) if self.pointwise(node) and self._reads_hidden(node) else None
        terms: tuple[Node, ...] = ()
        biases: tuple[str, ...] = ()
        for operand in self._operands(node, value):
            if name := self._bias(operand, self.trace.shapes[value]):
                biases += (name,)
            elif inner := self._terms(operand):
                terms += inner.terms
                biases += inner.biases
            else:
                return None
        return Sum(value, terms, biases) if terms else None

    def _operands(self, node: Node, value: int) -> list[int]:
        """The values that a node adds up; none if it does something else."""
        if node.op == "add" and node.argument("alpha") == 1:
            operands = [node.argument("self"), node.argument("other")]
            return [o.value for o in operands if isinstance(o, Ref)]
        if node.op == "sum" and (stack := self.channels.made_by(node.inputs[0])) and stack.op == "stack":
            rank = len(self.trace.shapes[value]) + 1
            if [dim % rank for dim in node.argument("dim")] == [stack.argument("dim") % rank]:
                return stack.inputs
        return []

    def _bias(self, value: int, shape: tuple[int, ...]) -> str | None:
        """The name of a vector that is added to every channel, seen through a view of it."""
        spread = (*shape[1:2], *[1] * (len(shape) - 2))
        if self.trace.shapes[value] not in (spread, (1, *spread)):
            return None
        while value not in self.trace.names:
            node = self.channels.made_by(value)
            if node is None or node.op not in ("view", "unsqueeze", "_unsafe_view"):
                return None
            value = node.inputs[0]
        return self.trace.names[value] if self.trace.shapes[value] == shape[1:2] else None

    def _reads_hidden(self, node: Node) -> bool:
        """Whether a pointwise convolution reads activated results of another convolution."""
        if node.index not in self._known:
            seen = self._visited
            try:
                self._known[node.index] = bool(self._hidden(node))
            except RecognitionError:
                self._known[node.index] = False
            self._visited = seen
        return self._known[node.index]

    def pointwise(self, node: Node) -> bool:
        """Whether a convolution is 1×1 with stride 1, all channels together."""
        return (
            not node.argument("transposed")
            and node.argument("groups") == 1
            and set(node.argument("stride")) == {1}
            and not any(node.argument("padding"))
            and set(self.kernel(node)) == {1}
        )

    def kernel(self, node: Node) -> tuple[int, ...]:
        """The extents of a convolution's kernel."""
        return self.trace.shapes[node.argument("weight").value][2:]
