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

from equivalence.blocks.forms import FORMS, Block
from equivalence.weights.correspondence import ROWS, CorrespondenceError, gather, scatter
from equivalence.weights.optimizer import moved_numbers, moved_state

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor, nn
    from torch.optim import Optimizer


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
    source: nn.Module,
    target: nn.Module,
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
        source: the block that is read.
        target: the block that is written, of the same spec, in any form.
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
    left, right = _block(source, "source"), _block(target, "target")
    _same_spec(left, right)
    with _transfer_errors():
        given, old = dict(_tensors(left)), dict(_tensors(right))
        new = _counterparts(given, left, right)
        _fits(new, old, lossy=lossy)
        _unshared(old)
        staged = {name: value.to(old[name]) for name, value in new.items()}
        grads = _moved_gradients(left, right, lossy=lossy) if gradients else {}
        states = _moved_states(left, right, optimizers) if optimizers else {}
    with _restored_on_error(old):
        for name, value in staged.items():
            old[name].copy_(value)
    for name, parameter in right.named_parameters() if gradients or optimizers else ():
        if gradients:
            parameter.grad = grads.get(name)
        if optimizers and states[name]:
            optimizers[1].state[parameter] = states[name]
        elif optimizers:
            optimizers[1].state.pop(parameter, None)
    return _record(left, right, given, old)


def convert(module: nn.Module, form: str) -> Block:
    """The same block in another form: a new module, same weights, mode, device and dtype.

    >>> from equivalence import BlockSpec, PerBranch
    >>> block = PerBranch(BlockSpec(in_channels=8, cardinality=2, width=3))
    >>> convert(block, "grouped").transform.conv.weight.shape
    torch.Size([6, 3, 3, 3])

    Args:
        module: the block to convert; it stays as it is.
        form: "per-branch", "concatenated" or "grouped".

    Raises:
        TransferError: if the module is no form of a block, or the form is unknown.
    """
    block = _block(module, "module")
    if form not in FORMS:
        raise TransferError(f"form (={form!r}) must be one of {', '.join(FORMS)}")
    with torch.device("meta"):
        converted = FORMS[form](block.spec)
    old = dict(_tensors(block))

    def flags(what: str, of: Mapping[str, bool]) -> dict[str, float]:
        return moved_numbers(what, of, old, lambda spread: _counterparts(spread, block, converted))

    with _transfer_errors():
        tensors = _counterparts(old, block, converted)
        requires_grad = flags(
            "requires_grad",
            {n: p.requires_grad for n, p in block.named_parameters(remove_duplicate=False)},
        )
        modes = flags(
            "training mode",
            {n: _owner(block, n).training for n, _ in block.named_buffers(remove_duplicate=False)},
        )
    converted.load_state_dict({name: _owned(t) for name, t in tensors.items()}, assign=True)
    for name, parameter in converted.named_parameters():
        parameter.requires_grad_(bool(requires_grad[name]))
    converted.train(block.training)
    for name, training in modes.items():  # a norm may have been frozen by itself
        _owner(converted, name).training = bool(training)
    return converted


def _block(module: nn.Module, side: str) -> Block:
    if not isinstance(module, Block):
        raise TransferError(
            f"{side} is a {type(module).__name__}, but must be one of the forms "
            + ", ".join(form.__name__ for form in FORMS.values())
        )
    return module


def _owner(block: Block, name: str) -> nn.Module:
    """The submodule that a tensor belongs to."""
    return block.get_submodule(name.rpartition(".")[0])


def _same_spec(left: Block, right: Block) -> None:
    source, target = left.spec.to_dict(), right.spec.to_dict()
    differing = [
        f"{field} is {source[field]!r} in the source and {target[field]!r} in the target"
        for field in source
        if source[field] != target[field]
    ]
    if differing:
        raise TransferError("specs differ: " + "; ".join(differing))


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by name, the live ones."""
    for name, parameter in module.named_parameters(remove_duplicate=False):
        yield name, parameter.detach()
    yield from module.named_buffers(remove_duplicate=False)


def _counterparts(tensors: Mapping[str, Tensor], left: Block, right: Block) -> dict[str, Tensor]:
    """The left block's tensors as the right block's form names and arranges them."""
    cardinality = left.spec.cardinality
    return scatter(right.form, gather(left.form, tensors, cardinality), cardinality)


def _fits(new: Mapping[str, Tensor], old: Mapping[str, Tensor], *, lossy: bool) -> None:
    """Both sides have the same tensors, of equal shape, and no cast loses bits unasked."""
    if odd := sorted(new.keys() ^ old.keys()):
        side = "source" if odd[0] in old else "target"
        raise TransferError(f"{odd[0]} has no counterpart in the {side}")
    for name, value in new.items():
        needed = old[name]
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


def _moved_gradients(left: Block, right: Block, *, lossy: bool) -> dict[str, Tensor]:
    parameters = dict(right.named_parameters())
    present = {n: p.grad for n, p in left.named_parameters() if p.grad is not None}
    grads = _counterparts(present, left, right)
    _fits(grads, {name: parameters[name] for name in grads}, lossy=lossy)
    return {name: _owned(grad).to(parameters[name]) for name, grad in grads.items()}


def _moved_states(left: Block, right: Block, optimizers: tuple[Optimizer, Optimizer]) -> dict[str, dict[str, Any]]:
    source, target = zip((left, right), optimizers, strict=True)
    return moved_state(source, target, lambda entries: _counterparts(entries, left, right))


def _owned(tensor: Tensor) -> Tensor:
    """A copy with memory of its own."""
    return tensor.detach().clone(memory_format=torch.contiguous_format)


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


def _record(left: Block, right: Block, given: Mapping[str, Tensor], written: Mapping[str, Tensor]) -> TransferRecord:
    """The mapping in words, read off the same table that moved the tensors."""
    cardinality = left.spec.cardinality
    moves = []
    for row in ROWS:
        source, target = row.places[left.form], row.places[right.form]
        if source.names(cardinality)[0] not in given:
            continue
        apart = source.per_branch or target.per_branch
        for branch in range(cardinality if apart else 1):
            origin, goal = source.name(branch), target.name(branch)
            whole, shape = tuple(given[origin].shape), tuple(written[goal].shape)
            if apart and not source.per_branch:
                origin = source.region(branch, cardinality, whole)
            if apart and not target.per_branch:
                goal, shape = target.region(branch, cardinality, shape), whole
            moves.append(Move(origin, goal, shape))
    return TransferRecord(left.form, right.form, tuple(moves))
