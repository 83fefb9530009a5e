"""The same block, or every block of a network, in another form.

Guarantee: the new module computes what the old one did, in evaluation and in training, with the same
scalars in other tensors; weights keep device, dtype and whether they are trained, parts keep their
mode, and everything that is no part of a block, hooks included, is a plain copy, without gradients.
The old module stays as it is. Whatever could not be rewritten is left as it was, and the record says
why.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import nn

from equivalence.blocks.forms import FORMS, Block
from equivalence.blocks.part import Part
from equivalence.blocks.recognition.errors import RecognitionError
from equivalence.blocks.recognize import Found, RecognizedBlock, find_blocks
from equivalence.weights.conversion import LOST, ConversionRecord, joined, kept, path_of, planned
from equivalence.weights.correspondence import CorrespondenceError
from equivalence.weights.renewal import hooked_inside, renewed, take_over
from equivalence.weights.sides import Located, Side, side_of, tensors_of
from equivalence.weights.transfer import TransferError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def convert(module: nn.Module | RecognizedBlock, form: str, input_shape: Sequence[int] | None = None) -> nn.Module:
    """The same block, or the same network, with its blocks in another form: a new module, same weights.

    >>> from equivalence import BlockSpec, PerBranch
    >>> block = PerBranch(BlockSpec(in_channels=8, cardinality=2, width=3))
    >>> convert(block, "grouped").transform.conv.weight.shape
    torch.Size([6, 3, 3, 3])

    Args:
        module: a form, a recognised block, or any module that holds blocks; it stays as it is.
        form: "per-branch", "concatenated" or "grouped".
        input_shape: `(N, C, H, W)` of an input of the module; guessed by default.

    Returns:
        one of the three forms where the module is one block and nothing else; otherwise a copy of
        the module in which every block is rewritten.

    Raises:
        TransferError: if there is no block in the module, or the form is unknown.
    """
    if form not in FORMS:
        raise TransferError(f"form (={form!r}) must be one of {', '.join(FORMS)}")
    if isinstance(module, Block):
        return _as_form(side_of(module), form)
    try:
        if isinstance(module, RecognizedBlock):
            found = Found((module,), (), module.rest)
        else:
            found = find_blocks(module, input_shape)
    except RecognitionError as error:
        raise TransferError(f"module is a {type(module).__name__} with no block that is recognised: {error}") from None
    whole = module.module if isinstance(module, RecognizedBlock) else module
    if block := only_block(whole, found):
        return _as_form(side_of(block), form)
    return rewrite(whole, found, form)[0]


def only_block(module: nn.Module, found: Found) -> RecognizedBlock | None:
    """The block that a module is, if it is that and nothing else."""
    first = found.blocks[0] if len(found.blocks) == 1 else None
    return first if first is not None and first.plain and first.module is module else None


def convert_network(
    module: nn.Module, form: str, input_shape: Sequence[int] | None = None
) -> tuple[nn.Module, ConversionRecord]:
    """A copy of a network with every block in another form, and the record of what was done.

    >>> from equivalence import BlockSpec, Grouped
    >>> spec = BlockSpec(in_channels=4, cardinality=2, width=2)
    >>> network, record = convert_network(nn.Sequential(Grouped(spec), nn.Flatten()), "per-branch")
    >>> print(record)
    1 blocks converted to per-branch, 0 left as they are
      0: 2x2d → per-branch

    Args:
        module: any module that holds blocks; it stays as it is.
        form: "per-branch", "concatenated" or "grouped".
        input_shape: `(N, C, H, W)` of an input of the module; guessed by default.

    Raises:
        TransferError: if there is no block in the module, or the form is unknown.
    """
    if form not in FORMS:
        raise TransferError(f"form (={form!r}) must be one of {', '.join(FORMS)}")
    try:
        found = find_blocks(module, input_shape)
    except RecognitionError as error:
        raise TransferError(str(error)) from None
    return rewrite(module, found, form)


def rewrite(module: nn.Module, found: Found, form: str) -> tuple[nn.Module, ConversionRecord]:
    """`convert_network` of a module whose blocks were found already."""
    record = planned(module, found, form)
    if not found.blocks:
        error = found.refusal()
        raise TransferError(f"module is a {type(module).__name__} with no block that is recognised: {error}")
    holder = nn.Module()
    holder.add_module("it", copy.deepcopy(module))
    for parameter in holder.parameters():
        parameter.grad = None
    blocks = {path_of(block, module): block for block in found.blocks}
    given = dict(tensors_of(module))
    converted, skipped = [], list(record.skipped)
    for rewritten in record.converted:
        path = rewritten.source.path
        try:
            tensors = renewed(given, rewritten.source, rewritten.target, module)
        except CorrespondenceError as error:
            skipped.append((path, str(error)))
            continue
        for place, part in _parts(blocks[path], path, form):
            _replace(holder, place, part)
        for tensor in tensors:
            tensor.put(holder.get_submodule("it"))
        converted.append(rewritten)
    return holder.get_submodule("it"), ConversionRecord(form, tuple(converted), tuple(skipped))


def _parts(block: RecognizedBlock, path: str, form: str) -> Iterator[tuple[str, nn.Module]]:
    """What takes the place of which submodule, without data yet."""
    with torch.device("meta"):
        whole = FORMS[form](dataclasses.replace(block.spec, shortcut="none")) if block.units else None
        for unit in block.units:
            yield joined(path, unit.path), Part(block.spec, form, unit.steps, block.reduce_stride, whole)
        if not block.units and block.plain:
            yield path, FORMS[form](block.spec)


def _replace(holder: nn.Module, path: str, part: nn.Module) -> None:
    """Put a part where a submodule was."""
    parent, _, name = joined("it", path).rpartition(".")
    owner = holder.get_submodule(parent)
    take_over(part, owner.get_submodule(name))
    setattr(owner, name, part)


def _as_form(side: Side, form: str) -> Block:
    """One block as one of the three forms."""
    block = side.blocks[0]
    if hooked := hooked_inside(side.module):
        raise TransferError(LOST.format(hooked))
    with torch.device("meta"):
        converted = FORMS[form](block.spec)
    take_over(converted, side.module)
    target = Located("", block.spec, kept(block.spec, form))
    try:
        tensors = renewed(dict(tensors_of(side.module)), block, target, side.module)
    except CorrespondenceError as error:
        raise TransferError(str(error)) from None
    for tensor in tensors:
        tensor.put(converted)
    return converted
