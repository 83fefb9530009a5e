"""What looks like a block and is none: every transform-like convolution that no core took.

Guarantee: a convolution with groups, or with a larger kernel between other convolutions of the same
shape, is either in a recognised block or named here with the reason; nothing is passed over in silence.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from equivalence.blocks.recognition.channels import data_of, is_convolution
from equivalence.blocks.recognition.errors import RecognitionError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from equivalence.blocks.recognition.assemble import Core
    from equivalence.blocks.recognition.core import Finder
    from equivalence.blocks.recognition.dataflow import Node


@dataclasses.dataclass(frozen=True)
class Refusal:
    """Something that was refused.

    Attributes:
        place: the submodule in which it is.
        reason: why it has not three equivalent forms.
    """

    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}" if self.place else self.reason


def refusals(finder: Finder, cores: list[Core]) -> Iterator[Refusal]:
    """One refusal for each innermost submodule that holds a convolution which could have been a transform.

    Args:
        finder: whose search is over.
        cores: what was recognised.
    """
    taken = {index for core in cores for index in core.nodes}
    found: dict[str, Refusal] = {}
    for node in finder.trace.nodes:
        if node.index in taken or not is_convolution(node) or set(finder.kernel(node)) == {1}:
            continue
        if error := _best(finder, node):
            place = _block_of(finder, node)
            found.setdefault(place, Refusal(place, error.reason))
    inner = [*found, *(finder.trace.place(core.steps["expand"][0]) for core in cores)]
    for place, refusal in found.items():
        # A stem is no block: what holds other blocks is not one itself.
        if not any(other != place and (not place or other.startswith(f"{place}.")) for other in inner):
            yield refusal


def _best(finder: Finder, node: Node) -> RecognitionError | None:
    """The failure that came farthest among those that met the convolution, or what is seen around it."""
    met = [error for error, visited in finder.failures if node.index in visited]
    if telling := [error for error in met if error.progress >= 1]:
        return max(telling, key=lambda error: error.progress)
    try:
        _, source, _ = finder.channels.activation(data_of(node), "before the transform")
    except RecognitionError as error:
        return (met or [error])[0] if node.argument("groups") > 1 else None
    made = finder.channels.made_by(finder.channels.pieces(source)[0].value)
    below = made
    while below is not None and not is_convolution(below) and below.inputs:
        below = finder.channels.made_by(below.inputs[0])
    if below is not None and is_convolution(below) and set(finder.kernel(below)) != {1}:
        return RecognitionError("only two convolutions (k×k, k×k): a block of depth 2 has no three forms")
    if nearly := [error for error in met if "between transform" in error.reason]:
        return nearly[0]
    return RecognitionError("no 1×1 expand follows the transform through norm and activation alone")


def _block_of(finder: Finder, node: Node) -> str:
    """The smallest submodule around the convolution that holds another one too."""
    convolutions = [n.index for n in finder.trace.nodes if is_convolution(n)]
    for call in sorted(finder.trace.calls, key=lambda call: -call.first):
        inside = [i for i in convolutions if call.first <= i < call.last]
        if node.index in inside and len(inside) > 1:
            return call.path
    return ""
