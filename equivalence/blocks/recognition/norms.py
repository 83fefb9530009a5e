"""What a norm of a block is, read off the operation as it ran.

Guarantee: eps, groups and momentum are those that the operation used, and a norm that is taken has
all that the norms of the forms have. A batch norm treats every channel by itself; a group norm every
group of channels, so its groups are taken only where each lies in one branch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from equivalence.blocks.recognition.errors import RecognitionError
from equivalence.blocks.recognition.trace import COUNTED

if TYPE_CHECKING:
    from equivalence.blocks.recognition.assemble import Core
    from equivalence.blocks.recognition.core import Finder
    from equivalence.blocks.recognition.dataflow import Node
    from equivalence.blocks.spec import Norm

AFFINE = ("weight", "bias")
STATISTICS = ("running_mean", "running_var")
NORMS = ("reduce.norm", "transform.norm", "norm")


def is_batch_norm(node: Node | None) -> bool:
    """Whether a node normalises by batch or running statistics."""
    return node is not None and "batch_norm" in node.op


def is_norm(node: Node | None) -> bool:
    """Whether a node is a batch norm or a group norm."""
    return node is not None and (is_batch_norm(node) or "group_norm" in node.op)


def kind(node: Node) -> Norm:
    """Which of the norms of a spec it is."""
    return "batch" if is_batch_norm(node) else "group"


def vectors(node: Node) -> tuple[str, ...]:
    """The names of the vectors that a norm of its kind has."""
    return AFFINE + STATISTICS if is_batch_norm(node) else AFFINE


def has_all(finder: Finder, node: Node) -> bool:
    """Whether a norm has all vectors of its kind."""
    return all(finder.channels.leaf(node, name) is not None for name in vectors(node))


def evaluated(node: Node) -> tuple[Any, ...]:
    """All that a norm in evaluation mode is told beside its vectors; equal for norms that are alike."""
    own = is_training(node) if is_batch_norm(node) else groups(node)
    return kind(node), eps(node), own


def eps(node: Node) -> float:
    """What is added to the variance."""
    return float(node.argument("eps", "epsilon"))


def groups(node: Node) -> int:
    """Into how many groups a group norm parts its channels."""
    return int(node.argument("group"))


def is_training(node: Node) -> bool:
    """Whether a batch norm uses the statistics of its batch."""
    try:
        return bool(node.argument("training"))
    except KeyError:
        return "no_training" not in node.op


def momentum(finder: Finder, node: Node) -> float | None:
    """The weight of the newest batch as a training run used it; None if it averages all batches.

    Raises:
        RecognitionError: if a batch norm is frozen.
    """
    if not is_batch_norm(node):
        return None
    if not is_training(node):
        raise RecognitionError(
            "a norm keeps its running statistics in training mode: it is frozen", finder.trace.place(node), 6
        )
    used = float(node.argument("momentum", "exponential_average_factor"))
    # The run's counter is a number that nobody sets a momentum to the inverse of.
    return None if used == 1.0 / float(COUNTED + 1) else used


def fields(finder: Finder, core: Core, trained: tuple[Finder, Core]) -> dict[str, Any]:
    """The fields of a spec that say what its norms are, which all of them have to share.

    Args:
        finder, core: in evaluation mode.
        trained: the same in training mode.

    Raises:
        RecognitionError: if they are norms that a spec cannot say.
    """
    if core.steps.keys() != trained[1].steps.keys():
        raise RecognitionError("in training mode its norms are others", finder.trace.place(core.steps["expand"][0]), 6)
    if "norm" not in core.steps:
        return {"norm": "none"}
    runs = ((finder, core), trained)
    nodes = [(run, node) for run, of in runs for name in NORMS for node in of.steps[name]]
    place = finder.trace.place(core.steps["norm"][0])
    in_branches = {
        _in_one_branch(*run, node)
        for run in runs
        for name in NORMS[:2]
        for node in run[1].steps[name]
        if not is_batch_norm(node)
    }
    found: dict[str, Any] = {
        "norm": _shared("kind", {kind(node) for _, node in nodes}, place),
        "eps": _shared("eps", {eps(node) for _, node in nodes}, place),
    }
    for run, node in nodes:
        _complete(run, node)
    if found["norm"] == "batch":
        _frozen_in_evaluation(finder, core)
        return found | {"momentum": _shared("momentum", {momentum(r, n) for r, n in nodes if r is trained[0]}, place)}
    after_sum = {groups(node) for _, of in runs for node in of.steps["norm"]}
    return found | {
        "norm_groups": _shared("groups of a branch", in_branches, place),
        "output_norm_groups": _shared("groups", after_sum, place),
    }


def _frozen_in_evaluation(finder: Finder, core: Core) -> None:
    for node in (node for name in NORMS for node in core.steps[name]):
        if is_training(node):
            raise RecognitionError("a norm uses batch statistics in evaluation mode", finder.trace.place(node), 6)


def _shared(what: str, values: set[Any], place: str) -> Any:
    if len(values) > 1:
        raise RecognitionError(f"norms of one block differ in {what}: {sorted(map(str, values))}", place, 6)
    return values.pop()


def _complete(finder: Finder, node: Node) -> None:
    """A norm has all vectors of its kind, and is told the shape that it has."""
    place = finder.trace.place(node)
    if not has_all(finder, node):
        lacking = "no affine parameters" + " or no running statistics" * is_batch_norm(node)
        raise RecognitionError(f"a norm has {lacking}", place, 6)
    shape = finder.trace.shapes[node.outputs[0]]
    if not is_batch_norm(node) and (node.argument("N"), node.argument("C")) != shape[:2]:
        raise RecognitionError(f"a group norm is told another shape than {shape}, that of its input", place, 6)


def _in_one_branch(finder: Finder, core: Core, node: Node) -> int:
    """How many groups a group norm makes of each branch.

    The norm holds one branch or all of them, in order and of one width, so groups of equal size lie
    in one branch each if and only if every branch is some of them.
    """
    branches = finder.trace.shapes[node.outputs[0]][1] // core.width
    if (number := groups(node)) % branches:
        place = finder.trace.place(node)
        named = f"the group norm {place}" if place else "a group norm"
        raise RecognitionError(
            f"{named} straddles branches: its number of groups (={number}) must be a multiple of that of "
            f"the branches (={branches}), so that each group lies in one",
            place,
            6,
        )
    return number // branches
