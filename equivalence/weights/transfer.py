"""Copying a block's weights from one form into another, exactly and all or nothing.

Guarantee: after `transfer` the target is the same function as the source, bit for bit in every
tensor; if anything does not fit, `TransferError` says which tensor, what it had and what was
needed, and the target is bit for bit as it was. Everything new is computed and checked before the
first scalar of the target is touched, and what has been written is put back if writing fails.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any

import torch

from equivalence.blocks.forms import FORMS
from equivalence.blocks.recognition.errors import RecognitionError
from equivalence.weights.correspondence import ROWS, CorrespondenceError
from equivalence.weights.optimizer import moved_state
from equivalence.weights.sides import Located, Side, counterparts, owned, side_of, tensors_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from equivalence.blocks.recognize import RecognizedBlock


class TransferError(ValueError):
    """Weights of one block do not fit another; the target is as it was."""


@dataclasses.dataclass(frozen=True)
class Move:
    """One line of the mapping: where a tensor or slice came from, where it went, and its shape."""

    source: str
    target: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.source} → {self.target}  {self.shape}"


@dataclasses.dataclass(frozen=True)
class TransferRecord:
    """What a transfer moved; printed, it is the mapping, one line for each tensor.

    Attributes:
        source, target: names of the forms.
        moves: one `Move` for each tensor of the form that has more of them.
    """

    source: str
    target: str
    moves: tuple[Move, ...]

    def __str__(self) -> str:
        head = f"{self.source} → {self.target}: {len(self.moves)} tensors"
        return "\n".join([head, *(f"  {move}" for move in self.moves)])


def transfer(
    source: nn.Module | RecognizedBlock,
    target: nn.Module | RecognizedBlock,
    *,
    gradients: bool = False,
    optimizers: tuple[Optimizer, Optimizer] | None = None,
    lossy: bool = False,
) -> TransferRecord:
    """Copy all weights of one form into another, in place.

    >>> from equivalence import BlockSpec, Grouped, PerBranch
    >>> spec = BlockSpec(in_channels=8, cardinality=2, width=3)
    >>> record = transfer(PerBranch(spec), Grouped(spec))
    >>> print(record.moves[1])
    branches.1.reduce.conv.weight → reduce.conv.weight[3:6]  (3, 8, 1, 1)
    >>> print(record.moves[-6])
    branches.1.expand.weight → expand.weight[:, 3:6]  (8, 3, 1, 1)

    Parameters, running statistics and counters move; device and dtype stay those of the target.

    Args:
        source: the block that is read: a form, or any module in which `recognize` finds blocks.
        target: the block that is written, of the same spec, in any form or any coding. What is
            around the blocks of both sides is paired in the order of its use.
        gradients: whether each parameter's `.grad` moves too.
        optimizers: the source's and the target's optimiser, of one class and equal settings;
            what they remember of each parameter (momentum, moments, step) moves too. Exact for
            optimisers that treat every scalar by itself, such as SGD, Adam and AdamW.
        lossy: whether a cast that can lose bits, such as float64 → float32, is allowed.

    Returns:
        the record of the mapping.

    Raises:
        TransferError: if spec, tensors, shapes, dtypes or optimisers do not fit.
    """
    left, right = _side(source, "source"), _side(target, "target")
    _same_specs(left, right)
    with _transfer_errors():
        given, old = dict(tensors_of(left.module)), dict(tensors_of(right.module))
        new = counterparts(given, left, right)
        _fits(new, old, lossy=lossy, optional=_uncounted(left, right))
        _unshared(old)
        staged = {name: value.to(old[name]) for name, value in new.items() if name in old}
        grads = _moved_gradients(left, right, lossy=lossy) if gradients else {}
        states = _moved_states(left, right, optimizers) if optimizers else {}
    with _restored_on_error(old):
        for name, value in staged.items():
            old[name].copy_(value)
    for name, parameter in right.module.named_parameters() if gradients or optimizers else ():
        if gradients:
            parameter.grad = grads.get(name)
        if optimizers and states[name]:
            optimizers[1].state[parameter] = states[name]
        elif optimizers:
            optimizers[1].state.pop(parameter, None)
    return _record(left, right, given, old)


def _side(subject: nn.Module | RecognizedBlock, side: str) -> Side:
    try:
        return side_of(subject)
    except RecognitionError as error:
        raise TransferError(
            f"{side} is a {type(subject).__name__}, but must be one of the forms "
            f"{', '.join(form.__name__ for form in FORMS.values())} or hold a block that is recognised: {error}"
        ) from None


def _same_specs(left: Side, right: Side) -> None:
    if len(left.blocks) != len(right.blocks):
        counts = f"{len(left.blocks)} blocks in the source and {len(right.blocks)} in the target"
        raise TransferError(f"there are {counts}, which cannot be paired")
    for one, other in zip(left.blocks, right.blocks, strict=True):
        source, target = one.identity(), other.identity()
        differing = [
            f"{field} is {source[field]!r} in the source and {target[field]!r} in the target"
            for field in source
            if source[field] != target[field]
        ]
        if differing:
            where = f" of {one.path or other.path}" if one.path or other.path else ""
            raise TransferError(f"specs{where} differ: " + "; ".join(differing))


def _uncounted(left: Side, right: Side) -> set[str]:
    """Counters of batches that one side does not keep, and that no momentum of the spec needs."""
    return {
        name
        for one, other in ((left, right), (right, left))
        for block, against in zip(one.blocks, other.blocks, strict=True)
        if block.spec.momentum is not None
        for name in block.counters_beyond(against)
    }


def _fits(new: Mapping[str, Tensor], old: Mapping[str, Tensor], *, lossy: bool, optional: Collection[str] = ()) -> None:
    """Both sides have the same tensors, of equal shape, and no cast loses bits unasked."""
    if odd := sorted((new.keys() ^ old.keys()) - set(optional)):
        side = "source" if odd[0] in old else "target"
        raise TransferError(f"{odd[0]} has no counterpart in the {side}")
    for name, value in new.items():
        if (needed := old.get(name)) is None:
            continue
        if value.shape != needed.shape:
            raise TransferError(f"{name} would get shape {tuple(value.shape)}, but needs {tuple(needed.shape)}")
        if not lossy and torch.promote_types(value.dtype, needed.dtype) != needed.dtype:
            raise TransferError(
                f"{name} would be cast from {value.dtype} to {needed.dtype}, which can lose bits; "
                "cast the target, or allow it with lossy=True"
            )


def _unshared(tensors: Mapping[str, Tensor]) -> None:
    """No two tensors of the target are one: each would have to hold its own scalars."""
    owners: dict[int, str] = {}
    for name, tensor in tensors.items():
        if tensor.numel() and (other := owners.setdefault(tensor.data_ptr(), name)) != name:
            raise TransferError(f"{name} and {other} share memory in the target; untie them first")


def _moved_gradients(left: Side, right: Side, *, lossy: bool) -> dict[str, Tensor]:
    parameters = dict(right.module.named_parameters())
    present = {n: p.grad for n, p in left.module.named_parameters() if p.grad is not None}
    grads = counterparts(present, left, right)
    _fits(grads, {name: parameters[name] for name in grads}, lossy=lossy)
    return {name: owned(grad).to(parameters[name]) for name, grad in grads.items()}


def _moved_states(left: Side, right: Side, optimizers: tuple[Optimizer, Optimizer]) -> dict[str, dict[str, Any]]:
    source, target = zip((left.module, right.module), optimizers, strict=True)
    return moved_state(source, target, lambda entries: counterparts(entries, left, right))


@contextlib.contextmanager
def _transfer_errors() -> Iterator[None]:
    """What the table or the optimisers refuse is a failed transfer."""
    try:
        with torch.no_grad():
            yield
    except CorrespondenceError as error:
        raise TransferError(str(error)) from None


@contextlib.contextmanager
def _restored_on_error(tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """All or nothing, even when a write fails half way."""
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    with torch.no_grad():
        try:
            yield
        except BaseException:
            for name, tensor in tensors.items():
                # A sign of zero is a difference too; what could not be written was not.
                if not (torch.equal(tensor, before[name]) and torch.equal(tensor.signbit(), before[name].signbit())):
                    tensor.copy_(before[name])
            raise


def _record(left: Side, right: Side, given: Mapping[str, Tensor], written: Mapping[str, Tensor]) -> TransferRecord:
    """The mapping in words, read off the same table that moved the tensors."""
    moves: list[Move] = []
    for one, other in zip(left.blocks, right.blocks, strict=True):
        moves += _block_moves(one, other, given, written)
    for origin, goal in zip(left.rest, right.rest, strict=False):
        moves.append(Move(origin, goal, tuple(written[goal].shape)))
    return TransferRecord(left.label, right.label, tuple(moves))


def _block_moves(
    left: Located, right: Located, given: Mapping[str, Tensor], written: Mapping[str, Tensor]
) -> Iterator[Move]:
    cardinality = left.spec.cardinality
    for row in ROWS:
        source, target = left.column.get(row.name), right.column.get(row.name)
        if source is None or target is None or source.names(cardinality)[0] not in given:
            continue
        apart = source.per_branch or target.per_branch
        for branch in range(cardinality if apart else 1):
            origin, goal = source.name(branch), target.name(branch)
            whole, shape = tuple(given[origin].shape), tuple(written[goal].shape)
            if apart and not source.per_branch:
                origin = source.region(branch, cardinality, whole)
            if apart and not target.per_branch:
                goal, shape = target.region(branch, cardinality, shape), whole
            yield Move(origin, goal, shape)
