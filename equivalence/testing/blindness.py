"""Whether a check that passed could have failed.

Guarantee: a check is called blind only to a fault that changes the function in the mode that was
checked: a survivor is compared with the module without the fault, everything included, before it
is held against anybody. The unfaulted sides are evaluated once for all faults, and outputs are
looked at before gradients, because most faults show there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from equivalence.arithmetic.errors import RejectedInput
from equivalence.blocks.forms import Block
from equivalence.testing.catalogue import catalogue, planted
from equivalence.verdict.check import check
from equivalence.verdict.memory import Memory
from equivalence.verdict.prove import default_shapes, prove_shapes

if TYPE_CHECKING:
    from collections.abc import Collection

    from torch import nn


def verdicts_with_faults(
    left: nn.Module, right: nn.Module, options: dict[str, Any], known: Collection[str] = ()
) -> dict[str, bool]:
    """Whether the check catches each fault, by the fault's name.

    Args:
        left, right: modules on which the check passed.
        options: of that check.
        known: names of faults that need not be planted again.
    """
    caught: dict[str, bool] = {}
    memory, everything = Memory(), _everything(options, right)
    for fault in catalogue():
        if fault.name in known:
            continue
        if fault.mode == "train" and options.get("mode", "eval") == "eval":
            continue  # only training shows it
        faulty = planted(fault, right)
        if faulty is None:
            continue
        if not _proved(left, faulty, options, memory):
            caught[fault.name] = True  # what is not proved does not pass, and no witness has to be looked for
        elif not _proved(right, faulty, everything, memory):
            caught[fault.name] = not check(left, faulty, **{**options, "place": False})
    return caught


def _everything(options: dict[str, Any], module: nn.Module) -> dict[str, Any]:
    """The options without what narrows a check: shapes, experiments, the kind of weights."""
    kept = {"mode", "seed"} | (set() if isinstance(module, Block) else {"input_shape"})
    return {name: value for name, value in options.items() if name in kept}


def _proved(left: nn.Module, right: nn.Module, options: dict[str, Any], memory: Memory) -> bool:
    """Whether all that a check with these options compares is proved equal."""
    shape, wanted = options.get("input_shape"), options.get("experiments")
    mode, weights, seed = options.get("mode", "eval"), options.get("weights", "given"), options.get("seed", 0)
    try:
        shapes = default_shapes(left, right) if shape is None else (tuple(shape),)
        for some, gradients in ((shapes[:1], False), (shapes, True)):
            proof = prove_shapes(left, right, some, mode, weights, gradients=gradients, seed=seed, memory=memory)
            seen = proof.experiments.keys() & set(wanted or proof.experiments)
            if proof.holds is None or not all(proof.experiments[name] for name in seen):
                return False
    except RejectedInput:
        return False  # a module that cannot be run any more is noticed
    return True
