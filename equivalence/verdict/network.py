"""Networks: every block in its three forms, then the whole against its converted selves.

Guarantee: a block is called equivalent to its form only by a proof: either its own, for all weights,
or that of another block of the same kind (same spec, same code path of tensors) together with a
comparison of its weights under the correspondence, bit by bit; the report says which. A whole
network is called equivalent only if the field proves it, at the size that is named; floats and
integers are evidence beside that. A gamma of zero that silences a block is said, never passed over.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

from equivalence.arithmetic.errors import UnsupportedOperation
from equivalence.arithmetic.floating import compare
from equivalence.arithmetic.lattice import NotApplicable
from equivalence.arithmetic.preserve import as_found
from equivalence.blocks.forms import FORMS
from equivalence.blocks.recognize import example, find_blocks
from equivalence.verdict.experiments import OUTPUTS
from equivalence.verdict.lattice import run_on_integers
from equivalence.verdict.memory import Memory
from equivalence.verdict.modules import base_dtype, device_of
from equivalence.verdict.photograph import photograph
from equivalence.verdict.preflight import structural_difference
from equivalence.verdict.prove import prove_shapes
from equivalence.verdict.verdict import Evidence, Report, Verdict
from equivalence.verdict.witness import find_witness
from equivalence.weights.convert import convert, is_in, rewrite
from equivalence.weights.correspondence import gather
from equivalence.weights.sides import side_of, tensors_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

    from equivalence.arithmetic.floating import Mode
    from equivalence.blocks.recognize import RecognizedBlock
    from equivalence.verdict.modules import Shape
    from equivalence.verdict.prove import Proof


@dataclasses.dataclass(frozen=True)
class Examined:
    """What was found out about a network.

    Attributes:
        results: a report for each block and form, then one for the whole network and each form.
        notes: what was left out and why, and what would make agreement mean little.
    """

    results: tuple[Report, ...]
    notes: tuple[str, ...]


def check_network(
    model: nn.Module,
    *,
    input_shape: Sequence[int] | None = None,
    mode: Mode = "eval",
    seed: int = 0,
    whole: bool = True,
    progress: Callable[[str], object] = lambda _: None,
) -> Examined:
    """Prove every block of a network equal to its other forms, and the network to its converted selves.

    >>> from equivalence import BlockSpec, Grouped
    >>> model = torch.nn.Sequential(Grouped(BlockSpec(in_channels=4, cardinality=2, width=2)))
    >>> [r.verdict.name for r in check_network(model).results]
    ['EQUIVALENT', 'EQUIVALENT', 'EQUIVALENT', 'EQUIVALENT']

    Args:
        model: any module of one input; it is left as it was.
        input_shape: `(N, C, H, W)` of an input that it takes; guessed from its weights by default.
        mode: "eval" or "train".
        seed: of everything that is drawn.
        whole: whether to look at the whole network too.
        progress: told what is being done.

    Raises:
        RecognitionError: if there is no block in it: nothing would be compared.
    """
    found = find_blocks(model, input_shape)
    if not found.blocks:
        raise found.refusal()
    notes = [f"not checked: {refusal}" for refusal in found.refused]
    silent = [block.path or "the block" for block in found.blocks if _is_silent(block)]
    if silent:
        notes.append(
            f"the last gamma of {len(silent)} of {len(found.blocks)} blocks is zero ({silent[0]}, …): with the weights "
            "as given they contribute nothing, so the whole network says little; check with random weights"
        )
    results: list[Report] = []
    proved: dict[object, tuple[str, Proof]] = {}
    for block in found.blocks:
        progress(f"block {block.path}")
        results += [_block(block, form, mode, seed, proved) for form in FORMS if form != _own_form(block)]
    if whole:
        shape = tuple(input_shape) if input_shape else _shape(model)
        for form in FORMS:
            if any(_own_form(block) != form for block in found.blocks):
                progress(f"whole network, {form}")
                converted, record = rewrite(model, found, form)
                own = {block.path for block in found.blocks if _own_form(block) != form}
                left = [
                    f"the whole network keeps {path} as it is: {why}" for path, why in record.skipped if path in own
                ]
                notes += [note for note in left if note not in notes]
                names = (type(model).__name__, f"{type(model).__name__} {form}")
                results.append(compare_networks(model, converted, shape, names, mode, seed, silent=bool(silent)))
    return Examined(tuple(results), tuple(notes))


def compare_networks(
    left: nn.Module,
    right: nn.Module,
    shape: Shape,
    names: tuple[str, str],
    mode: Mode = "eval",
    seed: int = 0,
    *,
    silent: bool = False,
) -> Report:
    """Two networks: floats on a photograph, integers, and a proof at one size.

    Args:
        left, right: any two modules of one input.
        shape: `(N, C, H, W)`.
        names: what the report calls them.
        mode: "eval" or "train".
        seed: of everything that is drawn.
        silent: whether weights are known to silence blocks, so that agreement means little.
    """
    image, picture = photograph(shape)
    image = image.to(device_of(left), base_dtype(left, right))
    quantities = compare(left, right, image, mode=mode, stages=False, seed=seed).quantities
    with as_found(left, right), torch.no_grad():
        outputs = (left.eval()(image), right.eval()(image))
    evidence = [Evidence("floating", OUTPUTS, None, f"{quantities[0].max_abs_diff:.3g} apart on {picture}")]

    def report(verdict: Verdict, reason: str) -> Report:
        dtype = str(base_dtype(left, right)).removeprefix("torch.")
        return Report(*names, "as given", mode, dtype, quantities, tuple(evidence), verdict, reason)

    if difference := structural_difference(outputs, shape):
        return report(Verdict.DIFFERENT, difference)
    evidence.append(_integers(left, right, shape, seed))
    proof = prove_shapes(left, right, (shape,), mode, "given", gradients=mode == "train", seed=seed)
    sure = 2.0**proof.log2_bound if proof else None
    evidence.append(Evidence("field", OUTPUTS, proof.holds, str(proof), sure))
    if not proof:
        return _unproved(left, right, shape, mode, seed, evidence, report, str(proof))
    if evidence[1].holds is False:
        statement = evidence[1].statement
        return report(Verdict.DIFFERENT, f"{statement}, although the expressions are equal: a kernel is wrong")
    if silent:
        return report(Verdict.UNDECIDED, "vacuous: blocks with a last gamma of zero contribute nothing")
    return report(Verdict.EQUIVALENT, str(proof))


def _unproved(
    left: nn.Module,
    right: nn.Module,
    shape: Shape,
    mode: Mode,
    seed: int,
    evidence: list[Evidence],
    report: Callable[[Verdict, str], Report],
    reason: str,
) -> Report:
    """A witness, or nothing."""
    try:
        found = find_witness(left, right, (shape,), mode, seed)
    except UnsupportedOperation as error:
        return report(Verdict.UNDECIDED, f"{reason}, and no bound on rounding: {error}")
    if found is None:
        return report(Verdict.UNDECIDED, f"{reason}, and no input was found on which they differ")
    evidence.append(Evidence("rounding", found.experiment, False, str(found)))
    return report(Verdict.DIFFERENT, str(found))


def _integers(left: nn.Module, right: nn.Module, shape: Shape, seed: int) -> Evidence:
    try:
        found = run_on_integers(left, right, shape, base_dtype(left, right), seed, Memory())
    except (NotApplicable, UnsupportedOperation) as error:
        return Evidence("lattice", OUTPUTS, None, f"not applicable: {error}")
    if OUTPUTS in found.differing():
        return Evidence("lattice", OUTPUTS, False, f"not equal in {found.description}")
    return Evidence("lattice", OUTPUTS, None if found.vacuous else True, f"equal in {found.description}")


def _block(block: RecognizedBlock, form: str, mode: Mode, seed: int, proved: dict[object, tuple[str, Proof]]) -> Report:
    """One block against one other form of it."""
    converted = convert(block, form)
    name = block.path or type(block.module).__name__
    shape = _block_shape(block)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    x = x.to(device_of(block.module), base_dtype(block.module))
    quantities = compare(block.module, converted, x, mode=mode, stages=False, seed=seed).quantities
    key = (_kind(block), form, mode)
    first = key not in proved
    if first:
        proof = prove_shapes(block.module, converted, (shape,), mode, "all", gradients=mode == "train", seed=seed)
        proved[key] = (name, proof)
    prover, proof = proved[key]
    same = _same_bits(block, converted)
    how = "its own proof for all weights" if first else f"the proof of {prover}, which has the same spec and code"
    sure = 2.0**proof.log2_bound if proof else None
    evidence = (
        Evidence("field", OUTPUTS, proof.holds, f"{proof}; {how}", sure),
        Evidence("floating", "weights", same, f"weights correspond bit by bit: {'yes' if same else 'no'}"),
    )
    if proof and same:
        verdict, reason = Verdict.EQUIVALENT, f"{how}; weights correspond bit by bit"
    else:
        verdict, reason = Verdict.UNDECIDED, str(proof) if not proof else "weights do not correspond bit by bit"
    dtype = str(base_dtype(block.module)).removeprefix("torch.")
    left = f"{name} ({block.spec.template})"
    return Report(left, form, "transferred", mode, dtype, quantities, evidence, verdict, reason)


def _same_bits(block: RecognizedBlock, converted: nn.Module) -> bool:
    """Whether both sides hold the same bits in the canonical arrangement, and around the block."""
    sides = (side_of(block), side_of(converted, block.input_shape))
    canonical = []
    for side in sides:
        tensors = dict(tensors_of(side.module))
        located = side.blocks[0]
        own = {n: tensors[n] for n in located.names if n in tensors}
        rest = {str(i): tensors[name] for i, name in enumerate(side.rest)}
        canonical.append(gather(located.column, own, located.spec.cardinality) | rest)
    left, right = canonical
    return all(name in right and _bits_equal(left[name], right[name]) for name in left)


def _bits_equal(left: Tensor, right: Tensor) -> bool:
    a, b = (t.contiguous().view(torch.uint8) if t.dim() else t.reshape(1).view(torch.uint8) for t in (left, right))
    return left.dtype == right.dtype and torch.equal(a, b)


def _kind(block: RecognizedBlock) -> object:
    """What blocks share that one proof is for: spec, surroundings, and how tensors are cut."""
    module = block.module
    cut = tuple((row, place.axes, place.per_branch) for row, place in block.places.items())
    # What is around a core is code, which nothing but running it tells: such a block is proved by itself.
    code = (type(module), repr(module)) if block.plain else id(module)
    return block.spec, block.plain, block.reduce_stride, cut, code


def _own_form(block: RecognizedBlock) -> str | None:
    """The form that a block is cut like, if it is one."""
    return next((form for form in FORMS if is_in(block, form)), None)


def _block_shape(block: RecognizedBlock) -> Shape:
    """A small input with a corner, an edge and an interior."""
    size = block.spec.dilation * (block.spec.kernel_size - 1) + 1 + block.spec.stride
    return (1, block.input_shape[1], *[size] * block.spec.spatial_dims)


def _shape(model: nn.Module) -> Shape:
    return (1, *example(model).shape[1:])


def _is_silent(block: RecognizedBlock) -> bool:
    place = block.places.get("norm.weight")
    return place is not None and not dict(tensors_of(block.module))[place.path].any()
