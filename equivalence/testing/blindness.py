"""Whether a check that passed could have failed.

Guarantee: a check is called blind only to a fault that changes the function in the mode that was
checked: a survivor is compared with the module without the fault, everything included, before it
is held against anybody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from equivalence.arithmetic.errors import RejectedInput
from equivalence.blocks.forms import Block
from equivalence.testing.catalogue import catalogue, planted
from equivalence.verdict.check import check
from equivalence.verdict.prove import prove

if TYPE_CHECKING:
    from torch import nn


def verdicts_with_faults(left: nn.Module, right: nn.Module, options: dict[str, Any]) -> dict[str, bool]:
    """Whether the check catches each fault, by the fault's name.

    Args:
        left, right: modules on which the check passed.
        options: of that check.
    """
    caught: dict[str, bool] = {}
    for fault in catalogue():
        faulty = planted(fault, right)
        if faulty is None:
            continue
        if not _passes(left, faulty, options):
            caught[fault.name] = True
        elif not _passes(right, faulty, _everything(options, right)):
            caught[fault.name] = False
    return caught


def _everything(options: dict[str, Any], module: nn.Module) -> dict[str, Any]:
    """The options without what narrows a check: shapes, experiments, the kind of weights."""
    kept = {"mode", "seed"} | (set() if isinstance(module, Block) else {"input_shape"})
    return {name: value for name, value in options.items() if name in kept}


def _passes(left: nn.Module, right: nn.Module, options: dict[str, Any]) -> bool:
    """Whether the check would pass; what is not proved cannot, and no witness has to be looked for."""
    try:
        proof = prove(left, right, **{name: value for name, value in options.items() if name != "experiments"})
        wanted = options.get("experiments") or proof.experiments
        agreed = all(agreed for name, agreed in proof.experiments.items() if name in wanted)
        return proof.holds is not None and agreed and bool(check(left, right, **options))
    except RejectedInput:
        return False  # a module that cannot be run any more is noticed
