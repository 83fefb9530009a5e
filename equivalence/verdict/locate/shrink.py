"""The smallest example at which a difference still shows.

Guarantee: what is named was run, and parted beyond rounding. Branches and channels are taken away by restricting both
sides' tensors in the canonical arrangement; a difference that is in no tensor is replanted in a smaller block instead.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import TYPE_CHECKING

from equivalence.arithmetic.errors import UnsupportedOperation
from equivalence.blocks.forms import FORMS
from equivalence.blocks.initialize import as_if_trained
from equivalence.verdict.faults.edits import canonical
from equivalence.verdict.faults.fault import DoesNotApply
from equivalence.verdict.locate.seen import parting, seen
from equivalence.verdict.modules import base_dtype
from equivalence.verdict.witness import witness_input
from equivalence.weights.convert import convert
from equivalence.weights.correspondence import ROWS, scatter

if TYPE_CHECKING:
    from torch import Tensor, nn

    from equivalence.arithmetic.floating import Mode
    from equivalence.blocks.forms import Block
    from equivalence.blocks.spec import BlockSpec
    from equivalence.verdict.faults.fault import Fault
    from equivalence.weights.correspondence import Row

_SIZES = (1, 2, 3, 4)
_MOST_TRIES = 16  # each is a run of two tiny blocks; locating must stay cheap


def smallest_size(
    left: nn.Module, right: nn.Module, pattern: str, shape: tuple[int, ...], mode: Mode, seed: int, *, gradients: bool
) -> tuple[int, ...] | None:
    """The smallest input, of one sample and equal spatial sizes, on which two modules part, up to the shape given."""
    batch = 2 if mode == "train" else 1
    for size in (n for n in _SIZES if n <= max(shape[2:], default=0)):
        smaller = (batch, shape[1], *[size] * (len(shape) - 2))
        if _parts(left, right, pattern, smaller, mode, seed, gradients=gradients):
            return smaller
    return None


def smallest_blocks(
    left: Block, right: Block, branches: list[int], pattern: str, shape: tuple[int, ...], mode: Mode, seed: int,
    *, gradients: bool,
) -> tuple[Block, Block] | None:  # fmt: skip
    """Both sides restricted to few branches and channels, in whose tensors the difference still is."""
    if canonical(left).keys() != canonical(right).keys():
        return None
    spec = left.spec
    keeps = [branches[:1], branches[:2]] if branches else [[0]]
    runs = [list(range(i, i + width)) for width in (1, 2) for i in range(spec.width - width + 1)]
    for kept, channels in itertools.islice(itertools.product(keeps, runs), _MOST_TRIES):
        pair = _restricted(left, kept, channels), _restricted(right, kept, channels)
        if _parts(pair[0], pair[1], pattern, shape, mode, seed, gradients=gradients):
            return pair
    return None


def smallest_planted(fault: Fault, block: Block, partner: Block, mode: Mode, seed: int) -> Block | None:
    """The smallest block of few branches and channels in which the fault shows, unfaulted."""
    for cardinality, width in ((1, 1), (2, 1), (1, 2), (2, 2)):
        spec = _smaller(block.spec, cardinality, width)
        clean = FORMS[block.form](spec)
        as_if_trained(clean, seed)
        other = convert(clean, partner.form)
        shape = spec.input_shape(batch=2, size=spec.dilation * (spec.kernel_size - 1) + 1)
        try:
            planted = fault.plant(clean, seed=seed)
        except DoesNotApply:
            continue
        for pattern in ("normal × 1", "normal × 1000"):
            if _parts(other, planted, pattern, shape, mode, seed, gradients=True):
                return clean
    return None


def _smaller(spec: BlockSpec, cardinality: int, width: int) -> BlockSpec:
    """The spec with few branches and channels, a norm's groups as many of its own as those allow."""
    groups = math.gcd(spec.norm_groups, width)
    return dataclasses.replace(spec, cardinality=cardinality, width=width, norm_groups=groups)


def _restricted(block: Block, branches: list[int], channels: list[int]) -> Block:
    """A block of some branches and hidden channels, with their tensors."""
    spec = _smaller(block.spec, len(branches), len(channels))
    held = canonical(block)
    whole = {row.name: _cut(row, held[row.name], branches, channels) for row in ROWS if row.name in held}
    made = FORMS[block.form](spec).to(next(block.parameters()).dtype)
    made.load_state_dict(scatter(block.form, whole, spec.cardinality))
    return made


def _cut(row: Row, tensor: Tensor, branches: list[int], channels: list[int]) -> Tensor:
    if not row.axes.startswith("c"):
        return tensor
    tensor = tensor[branches]
    if row.name.startswith(("reduce", "transform")):
        tensor = tensor[:, channels]
    if row.name in ("transform.conv.weight", "expand.weight"):
        tensor = tensor[:, :, channels]
    return tensor


def _parts(
    left: nn.Module, right: nn.Module, pattern: str, shape: tuple[int, ...], mode: Mode, seed: int, *, gradients: bool
) -> bool:
    dtype = base_dtype(left, right)
    x = witness_input(pattern, shape, dtype, seed)
    try:
        sides = [seen(side, x, dtype, mode, seed, gradients=gradients) for side in (left, right)]
    except (UnsupportedOperation, ValueError, RuntimeError):
        return False  # an input that a module does not take is no example
    return parting(*sides) is not None
