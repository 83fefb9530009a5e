"""Forms with weights such as training leaves them, from a seed.

Guarantee: the same seed gives the same weights, and the global random generators stay as they are.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch

from equivalence.arithmetic.preserve import random_state, seed_everything
from equivalence.blocks.forms import FORMS, Block
from equivalence.blocks.initialize import as_if_trained
from equivalence.weights.transfer import transfer

if TYPE_CHECKING:
    from equivalence.blocks.spec import BlockSpec


def build(form: type[Block], spec: BlockSpec, seed: int, dtype: str = "float32") -> Block:
    """One form of a block, in evaluation mode.

    >>> from equivalence import BlockSpec, Grouped
    >>> spec = BlockSpec(in_channels=8, cardinality=2, width=3)
    >>> build(Grouped, spec, seed=0, dtype="float64").expand.weight.dtype
    torch.float64

    Args:
        form: the class of the form.
        spec: the block.
        seed: of all weights and statistics.
        dtype: in which it runs.
    """
    with random_state():
        seed_everything(seed)
        block = form(spec)
    as_if_trained(block, seed)
    return block.to(getattr(torch, dtype)).eval()


def transferred(spec: BlockSpec, seed: int, dtype: str = "float32") -> tuple[Block, Block, Block]:
    """The three forms of a block, in the order of Fig. 3, with one set of weights.

    >>> from equivalence import BlockSpec, check
    >>> a, b, c = transferred(BlockSpec(in_channels=8, cardinality=2, width=3), seed=0)
    >>> bool(check(a, c))
    True

    Args:
        spec: the block.
        seed: of all weights and statistics.
        dtype: in which they run.
    """
    per_branch, concatenated, grouped = (build(form, spec, seed, dtype) for form in FORMS.values())
    for source, target in itertools.pairwise((per_branch, concatenated, grouped)):
        transfer(source, target)
    return per_branch, concatenated, grouped
