"""Which known fault would explain a difference.

Guarantee: a fault is named only if planting it in a copy of one side is *proved* to give the other side. What is cheap
is tried first: all tensors must become equal bit for bit, then outputs in float64 must agree, and only then is the
proof asked for; so of the whole catalogue at most three reach it.
"""

from __future__ import annotations

import copy
import itertools
from typing import TYPE_CHECKING

import torch

from equivalence.arithmetic.preserve import as_found
from equivalence.verdict.faults.catalogue import CATALOGUE
from equivalence.verdict.faults.edits import canonical
from equivalence.verdict.faults.fault import DoesNotApply, Spot
from equivalence.verdict.locate.scalars import differing_branches, first_scalar
from equivalence.verdict.prove import prove_shapes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from equivalence.arithmetic.floating import Mode
    from equivalence.blocks.forms import Block
    from equivalence.verdict.faults.fault import Fault
    from equivalence.verdict.modules import Shape

_MOST_PROOFS = 3
_CLOSE = 1e-12


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
    orders = [[*most, *others], [*others, *most]] if others else [most]  # what is copied everywhere is what agrees
    spots = [Spot(tuple(order), scalar.flat if scalar else 0) for order in orders]
    for clean, faulty, side in ((left, right, "right"), (right, left, "left")):
        for fault, planted in _candidates(clean, faulty, spots, x, mode):
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
    """Faults that give the other side's tensors and, as far as float64 shows, its outputs."""
    wanted = canonical(faulty)
    outputs = _wide(faulty, x, mode)
    for fault, spot in itertools.product(CATALOGUE.values(), spots):
        if fault.harmless or (fault.mode == "train" and mode == "eval"):
            continue
        try:
            planted = fault.plant(clean, spot=spot)
        except DoesNotApply:
            continue
        held = canonical(planted)
        if held.keys() != wanted.keys() or not all(torch.equal(held[name], wanted[name]) for name in wanted):
            continue
        apart = (_wide(planted, x, mode) - outputs).abs().max()
        if apart <= _CLOSE * outputs.abs().max():
            yield fault, planted


def _wide(module: Block, x: Tensor, mode: Mode) -> Tensor:
    wide = copy.deepcopy(module).double().train(mode == "train")
    with as_found(), torch.no_grad():
        y: Tensor = wide(x.clone())
    return y
