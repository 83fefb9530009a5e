"""Where a difference starts: stage, branch, channel, scalar; the smallest example; the fault that explains it.

Guarantee: a stage is named only if two elements there are farther apart than rounding explains while all stages before
it agree within rounding. Both modules are left as they were found, and the same seed gives the same place.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from equivalence.arithmetic.errors import UnsupportedOperation
from equivalence.arithmetic.preserve import as_found
from equivalence.blocks.forms import Block
from equivalence.verdict.locate import shrink
from equivalence.verdict.locate.explain import branches_of_gradients, explanation
from equivalence.verdict.locate.place import Place
from equivalence.verdict.locate.scalars import differing_settings, first_scalar
from equivalence.verdict.locate.seen import parting, seen, shows
from equivalence.verdict.locate.submodules import first_submodule
from equivalence.verdict.modules import base_dtype
from equivalence.verdict.prove import default_shapes
from equivalence.verdict.witness import witness_input

if TYPE_CHECKING:
    from torch import Tensor, nn

    from equivalence.arithmetic.floating import Mode
    from equivalence.verdict.locate.seen import Parting
    from equivalence.verdict.modules import Shape

_PATTERNS = ("normal × 1", "normal × 1000", "normal × 1e+08", "positive", "alternating")


@dataclasses.dataclass(frozen=True)
class _Seen:
    """The first input on which two modules part, and where."""

    found: Parting
    pattern: str
    gradients: bool
    x: Tensor


def locate(
    left: nn.Module,
    right: nn.Module,
    *,
    input_shape: Shape | None = None,
    mode: Mode = "eval",
    seed: int = 0,
) -> Place | None:
    """Say where two modules part, and what would explain it; None if they were not seen to.

    >>> from equivalence import BlockSpec, Grouped, PerBranch, transfer
    >>> from equivalence.verdict.faults import fault_named
    >>> a, c = (form(BlockSpec(in_channels=8, cardinality=2, width=3)) for form in (PerBranch, Grouped))
    >>> _ = transfer(a, c)
    >>> locate(a, c) is None
    True
    >>> place = locate(a, fault_named("expand-axis-0").plant(c))
    >>> place.stage, place.looks_like
    ('aggregated', 'expand.weight is sliced on axis 0 instead of axis 1, on the right')

    Args:
        left, right: any two modules; two forms of one spec are told apart stage by stage.
        input_shape: `(N, C, H, W)`; forms of a block need none.
        mode: "eval" or "train".
        seed: of everything that is drawn.

    Raises:
        ValueError: if a shape is needed and not given.
        UnsupportedOperation: if an operation has no rule that bounds its error.
    """
    shape = input_shape if input_shape is not None else default_shapes(left, right)[0]
    if isinstance(left, Block) and isinstance(right, Block) and left.spec == right.spec:
        return _between_forms(left, right, shape, mode, seed)
    dtype = base_dtype(left, right)
    for pattern in _PATTERNS:
        x = witness_input(pattern, shape, dtype, seed)
        if place := first_submodule(left, right, x, dtype, mode, seed):
            return place
    found = _first_input(left, right, shape, mode, seed)
    return Place(found.found.stage, str(found.found)) if found else None


def _between_forms(left: Block, right: Block, shape: Shape, mode: Mode, seed: int) -> Place | None:
    scalar, settings = first_scalar(left, right), differing_settings(left, right)
    at = _first_input(left, right, shape, mode, seed)
    if at is None:
        if scalar is None and not settings:
            return None
        return Place("unseen", "no input showed it", scalar=scalar, settings=settings)
    branches = at.found.branches or ((scalar.branch,) if scalar and scalar.branch is not None else ())
    if at.found.stage == "input gradient" and not branches:
        branches = tuple(branches_of_gradients(left, right, at.x, mode))
    explained = explanation(left, right, branches, at.x, mode, seed)
    place = Place(
        stage=at.found.stage,
        statement=str(at.found),
        branch=branches[0] if branches else None,
        channel=at.found.channel,
        scalar=scalar,
        settings=settings,
        looks_like=f"{explained[0].sentence}, on the {explained[1]}" if explained else None,
        fault=explained[0].name if explained else None,
    )
    return dataclasses.replace(place, smallest=_smallest(left, right, list(branches), at, place, shape, mode, seed))


def _first_input(left: nn.Module, right: nn.Module, shape: Shape, mode: Mode, seed: int) -> _Seen | None:
    """Outputs on the plain input, then gradients there, then outputs on other inputs."""
    dtype = base_dtype(left, right)
    steps = [(_PATTERNS[0], False), (_PATTERNS[0], True), *((name, False) for name in _PATTERNS[1:])]
    for pattern, gradients in steps[1:2] if mode == "train" else steps:
        x = witness_input(pattern, shape, dtype, seed)
        sides = [seen(side, x, dtype, mode, seed, gradients=gradients) for side in (left, right)]
        if shows(*sides) and (found := parting(*sides)):
            return _Seen(found, pattern, gradients, x)
    return None


def _smallest(
    left: Block, right: Block, branches: list[int], at: _Seen, place: Place, shape: Shape, mode: Mode, seed: int
) -> str | None:
    """The smallest example, in words."""
    wanted = at.gradients
    try:
        size = shrink.smallest_size(left, right, at.pattern, shape, mode, seed, gradients=wanted)
        of_input = f"input {size or shape}, {at.pattern}"
        for tried in dict.fromkeys((size or shape, shape)) if place.scalar else ():
            pair = shrink.smallest_blocks(left, right, branches, at.pattern, tried, mode, seed, gradients=wanted)
            if pair:
                return f"{pair[0].spec.template}, input {tried}, {at.pattern}"
        if place.fault:
            from equivalence.verdict.faults.catalogue import fault_named

            if block := shrink.smallest_planted(fault_named(place.fault), right, left, mode, seed):
                return f"{left.spec.template}, {of_input}; the same fault shows in a {block.spec.template} too"
    except UnsupportedOperation:
        return None
    return f"{left.spec.template}, {of_input}"


def located(left: nn.Module, right: nn.Module, shape: Shape, mode: Mode, seed: int) -> Place | None:
    """`locate`, as far as rounding can be bounded."""
    try:
        with as_found(left, right):
            return locate(left, right, input_shape=shape, mode=mode, seed=seed)
    except UnsupportedOperation:
        return None
