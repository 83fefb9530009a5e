"""Which known fault would explain a difference.

Guarantee: a fault is named only if planting it in a copy of one side is *proved* to give the other side. What is cheap
is tried first: all tensors must become equal bit for bit, then outputs in float64 must agree, and only then is the
proof asked for; so of the whole catalogue at most three reach it.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch

from equivalence.arithmetic.floating import compare, cotangent_of
from equivalence.blocks.forms import Block
from equivalence.verdict.faults.catalogue import CATALOGUE
from equivalence.verdict.faults.duplicate import duplicate
from equivalence.verdict.faults.edits import canonical
from equivalence.verdict.faults.fault import DoesNotApply, Spot
from equivalence.verdict.locate.scalars import differing_branches, first_scalar
from equivalence.verdict.prove import prove_shapes
from equivalence.weights.convert import convert
from equivalence.weights.transfer import TransferError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from equivalence.arithmetic.floating import Mode
    from equivalence.verdict.faults.fault import Fault
    from equivalence.verdict.modules import Shape

_MOST_PROOFS = 3
_CLOSE = 1e-10  # honest reordering stays far below; the proof decides


def explanation(
    left: Block, right: Block, branches: Sequence[int], x: Tensor, mode: Mode, seed: int
) -> tuple[Fault, str] | None:
    """The fault that explains a difference, and the side that it is on.

    Args:
        left, right: two forms of one spec.
        branches: in which they part, the worst first.
        x: an input on which they part, in float64.
        mode: "eval" or "train".
        seed: of the proof.
    """
    proofs = 0
    scalar = first_scalar(left, right)
    most = differing_branches(left, right) or list(branches)
    others = [b for b in range(left.spec.cardinality) if b not in most]
    # What was copied everywhere is in the branch that agrees.
    orders = [[*most, *others], [*others, *most]] if others and most else [most or others]
    spots = [Spot(tuple(order), scalar.flat if scalar else 0) for order in orders]
    for clean, faulty, side in ((left, right, "right"), (right, left, "left")):
        try:
            same_form = convert(clean, faulty.form)
        except TransferError:
            continue  # a side that is no clean form any more is not where to plant in
        if not isinstance(same_form, Block):
            continue
        for fault, planted in _candidates(same_form, faulty, spots, x, mode):
            if proofs == _MOST_PROOFS:
                return None
            proofs += 1
            shape: Shape = tuple(x.shape)
            if prove_shapes(planted, faulty, (shape,), mode, "given", gradients=True, seed=seed):
                return fault, side
    return None


def _candidates(
    clean: Block, faulty: Block, spots: Sequence[Spot], x: Tensor, mode: Mode
) -> Iterator[tuple[Fault, Block]]:
    """Faults that give the other side's tensors and, as far as float64 shows, all that it does."""
    wanted, does = canonical(faulty), list(_does(faulty, x, mode))
    screen = convert(clean, "grouped")  # a fault means the same in every form, and this one is the cheapest to copy
    for fault, spot in itertools.product(CATALOGUE.values(), spots):
        if fault.harmless or (fault.mode == "train" and mode == "eval"):
            continue
        if isinstance(screen, Block) and not _may_be(fault, spot, screen, wanted, does[0], x, mode):
            continue
        try:
            planted = fault.plant(clean, spot=spot)
        except DoesNotApply:
            continue
        if _same(canonical(planted), wanted) and all(map(_close, _does(planted, x, mode), does)):
            yield fault, planted


def _may_be(
    fault: Fault, spot: Spot, screen: Block, wanted: dict[str, Tensor], output: dict[str, Tensor], x: Tensor, mode: Mode
) -> bool:
    """Whether a fault, planted in another form, does not rule itself out by its tensors or its output."""
    try:
        planted = fault.plant(screen, spot=spot)
    except DoesNotApply:
        return True  # not in that form
    held = canonical(planted)
    return held.keys() != wanted.keys() or (_same(held, wanted) and _close(next(_does(planted, x, mode)), output))


def _same(held: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return held.keys() == wanted.keys() and all(torch.equal(held[name], wanted[name]) for name in wanted)


def _does(module: Block, x: Tensor, mode: Mode) -> Iterator[dict[str, Tensor]]:
    """Outputs, then buffers, then gradients, in float64; each only if it is asked for."""
    wide = duplicate(module).double().train(mode == "train")
    leaf = x.clone().requires_grad_()
    with torch.enable_grad():
        y: Tensor = wide(leaf.clone())
    yield {"output": y.detach()}
    yield dict(wide.named_buffers())
    parameters = {n: p for n, p in wide.named_parameters() if p.requires_grad and mode == "train"}
    found = torch.autograd.grad(y, [leaf, *parameters.values()], cotangent_of(y, 0), allow_unused=True)
    yield {n: g for n, g in zip(["input", *parameters], found, strict=True) if g is not None}


def _close(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    if ours.keys() != theirs.keys():
        return False
    return all(
        ours[name].shape == t.shape and bool((ours[name] - t).abs().max() <= _CLOSE * (1e-30 + t.abs().max()))
        for name, t in theirs.items()
    )


def branches_of_gradients(left: Block, right: Block, x: Tensor, mode: Mode) -> list[int]:
    """The branch in which parameters' gradients differ most, in float64: the input's gradient tells none."""
    wide = [duplicate(side).double() for side in (left, right)]
    if any(not p.requires_grad for side in wide for p in side.parameters()):
        return []
    quantities = compare(wide[0], wide[1], x, mode=mode, stages=False, gradients=True).quantities
    of_branches = [q for q in quantities if q.name.startswith(("reduce", "transform", "expand.w")) and not q.problem]
    worst = max(of_branches, key=lambda q: q.max_abs_diff, default=None)
    return [int(worst.index[0])] if worst and worst.index and worst.max_abs_diff > _CLOSE else []
