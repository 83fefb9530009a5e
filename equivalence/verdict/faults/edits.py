"""The means by which faults are planted, each working in every form.

Guarantee: tensors are edited in the correspondence's canonical arrangement and scattered back, so an edit means the
same in all forms; what is computed is edited by hooks, so that every tensor keeps its name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from equivalence.blocks.forms import Block, Grouped
from equivalence.verdict.faults.fault import DoesNotApply
from equivalence.weights.correspondence import ROWS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Change = "Callable[[Tensor], Tensor]"
BRANCH_STAGES = ("reduce", "transform")


def tensors(block: Block) -> dict[str, Tensor]:
    """The live parameters and buffers by name."""
    parameters = {name: tensor.detach() for name, tensor in block.named_parameters()}
    return parameters | dict(block.named_buffers())


def canonical(block: Block) -> dict[str, Tensor]:
    """Copies of all tensors that the correspondence knows, by row; counters that disagree are left out."""
    own, cardinality = tensors(block), block.spec.cardinality
    found = {}
    for row in ROWS:
        names = row.places[block.form].names(cardinality)
        if all(name in own for name in names) and len({own[n].shape for n in names}) == 1:
            held = [own[name] for name in names]
            if row.axes or all(torch.equal(held[0], other) for other in held):
                found[row.name] = row.gather(block.form, held, cardinality).clone()
    return found


def edit(block: Block, changes: Mapping[str, Callable[[Tensor], Tensor]]) -> None:
    """Change canonical tensors, by row; rows that the block has not are passed over.

    Raises:
        DoesNotApply: if the block has none of the rows, or no scalar changes.
    """
    own, cardinality = tensors(block), block.spec.cardinality
    rows = [row for row in ROWS if row.name in changes and row.places[block.form].name(0) in own]
    if not rows:
        raise DoesNotApply(f"the block has no {' and no '.join(changes)}")
    changed = False
    for row in rows:
        names = row.places[block.form].names(cardinality)
        before = row.gather(block.form, [own[name] for name in names], cardinality)
        after = changes[row.name](before.clone())
        need(after.shape == before.shape, f"{row.name} would get another shape")
        changed |= not torch.equal(before, after)
        for name, value in zip(names, row.scatter(block.form, after, cardinality), strict=True):
            own[name].copy_(value)
    if not changed:
        raise DoesNotApply(f"it changes no scalar of {', '.join(row.name for row in rows)} in this block")


def units(block: Block, stage: str) -> list[Any]:
    """The units (conv, norm, activation) of a stage: one for each branch, or one for all."""
    if isinstance(block, Grouped):
        return [block.get_submodule(stage)]
    return [block.get_submodule(f"branches.{branch}.{stage}") for branch in range(block.spec.cardinality)]


def norms(block: Block) -> list[Any]:
    """Every norm.

    Raises:
        DoesNotApply: if there is none.
    """
    found = [part for part in block.modules() if isinstance(part, (nn.modules.batchnorm._BatchNorm, nn.GroupNorm))]
    need(bool(found), "the block has no norm")
    return found


def batch_norms(block: Block) -> list[Any]:
    """Every norm, where they keep running statistics.

    Raises:
        DoesNotApply: if there is no norm, or none that does.
    """
    found = norms(block)
    need(block.spec.norm == "batch", f"a {block.spec.norm} norm keeps no running statistics")
    return found


def need(condition: bool, reason: str) -> None:
    """Refuse to plant, with the reason, unless a condition holds."""
    if not condition:
        raise DoesNotApply(reason)


def after(module: nn.Module, change: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Let what a module received and returned decide what it returns."""
    module.register_forward_hook(lambda _, received, returned: change(received[0], returned))


def before(module: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
    """Change what a module receives."""
    module.register_forward_pre_hook(lambda _, received: (change(received[0]),))


def after_in_branch(block: Block, path: str, branch: int, change: Callable[[Tensor, Tensor], Tensor]) -> None:
    """`after` for the channels of one branch; side by side in the grouped form, the others keep what they have."""
    if not isinstance(block, Grouped):
        after(block.get_submodule(f"branches.{branch}.{path}"), change)
        return
    low, high = branch * block.spec.width, (branch + 1) * block.spec.width

    def in_slice(received: Tensor, returned: Tensor) -> Tensor:
        own = change(received[:, low:high], returned[:, low:high])
        return torch.cat([returned[:, :low], own, returned[:, high:]], dim=1)

    after(block.get_submodule(path), in_slice)
