"""Networks: every block in its three forms, then the whole against its converted selves.

Guarantee: every block is certified by itself (see `certificate`). A whole network is called
equivalent only if the field proves it, at the size that is named; floats and integers are evidence
beside that. A gamma of zero that silences a block is said, never passed over.
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
from equivalence.verdict.certificate import Asked, Certifier, own_form
from equivalence.verdict.experiments import AFTER_SGD, OUTPUTS
from equivalence.verdict.lattice import run_on_integers
from equivalence.verdict.locate.find import located
from equivalence.verdict.memory import Memory
from equivalence.verdict.modules import base_dtype, device_of
from equivalence.verdict.photograph import photograph
from equivalence.verdict.preflight import structural_difference
from equivalence.verdict.prove import correspond_as, prove_shapes
from equivalence.verdict.verdict import Evidence, Report, Verdict
from equivalence.verdict.witness import find_witness
from equivalence.weights.convert import rewrite
from equivalence.weights.sides import tensors_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn

    from equivalence.arithmetic.floating import Mode
    from equivalence.blocks.recognize import RecognizedBlock
    from equivalence.verdict.lattice import Moved
    from equivalence.verdict.modules import Shape


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
    gradients: bool = True,
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
        gradients: whether the input's gradient is proved in evaluation mode too.
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
    asked = Asked(mode, seed, gradients)
    certifier = Certifier(asked)
    for block in found.blocks:
        progress(f"block {block.path}")
        results += certifier.reports(block)
    if whole:
        shape = tuple(input_shape) if input_shape else _shape(model, mode)
        for form in FORMS:
            if any(own_form(block) != form for block in found.blocks):
                progress(f"whole network, {form}")
                converted, record = rewrite(model, found, form)
                own = {block.path for block in found.blocks if own_form(block) != form}
                left = [
                    f"the whole network keeps {path} as it is: {why}" for path, why in record.skipped if path in own
                ]
                notes += [note for note in left if note not in notes]
                if not record.converted:
                    continue  # a copy of itself: nothing would be compared
                names = (type(model).__name__, f"{type(model).__name__} {form}")
                results.append(
                    compare_networks(model, converted, shape, names, asked, silent=bool(silent), moved=record.moved)
                )
    return Examined(tuple(results), tuple(notes))


_AS_USUAL = Asked()


def compare_networks(
    left: nn.Module,
    right: nn.Module,
    shape: Shape,
    names: tuple[str, str],
    asked: Asked = _AS_USUAL,
    *,
    silent: bool = False,
    moved: Moved | None = None,
) -> Report:
    """Two networks: floats on a photograph, integers, and a proof at one size.

    Args:
        left, right: any two modules of one input.
        shape: `(N, C, H, W)`.
        names: what the report calls them.
        asked: how they are compared.
        silent: whether weights are known to silence blocks, so that agreement means little.
        moved: moves the left network's tensors into the right one's, if that is known.
    """
    mode, seed = asked.mode, asked.seed
    image, picture = photograph(shape)
    image = image.to(device_of(left), base_dtype(left, right))
    quantities = compare(left, right, image, mode=mode, stages=False, seed=seed).quantities
    with as_found(left, right), torch.no_grad():
        outputs = (left.eval()(image), right.eval()(image))
    evidence = [Evidence("floating", OUTPUTS, None, f"{quantities[0].max_abs_diff:.3g} apart on {picture}")]

    def report(verdict: Verdict, reason: str) -> Report:
        dtype = str(base_dtype(left, right)).removeprefix("torch.")
        place = located(left, right, shape, mode, seed) if verdict is Verdict.DIFFERENT else None
        return Report(*names, "as given", mode, dtype, quantities, tuple(evidence), verdict, reason, place)

    if difference := structural_difference(outputs, shape):
        return report(Verdict.DIFFERENT, difference)
    evidence.append(_integers(left, right, shape, seed, moved))
    proof = prove_shapes(left, right, (shape,), mode, "given", gradients=asked.backward, seed=seed)
    left_out = ""
    if proof.too_large and mode == "train":
        proof = prove_shapes(left, right, (shape,), mode, "given", gradients=True, seed=seed, sgd=False)
        left_out = f"; without {AFTER_SGD}, whose expressions are too large in so deep a network"
    sure = 2.0**proof.log2_bound if proof else None
    for experiment, agreed in proof.by_experiment:
        evidence.append(Evidence("field", experiment, agreed, str(proof), sure))
    if not proof:
        return _unproved(left, right, shape, mode, seed, evidence, report, str(proof))
    if evidence[1].holds is False:
        statement = evidence[1].statement
        return report(Verdict.DIFFERENT, f"{statement}, although the expressions are equal: a kernel is wrong")
    if not torch.equal(*(output.isfinite() for output in outputs)):
        return report(Verdict.UNDECIDED, f"equal as expressions, but only one side is finite on {picture}")
    if silent:
        return report(Verdict.UNDECIDED, "vacuous: blocks with a last gamma of zero contribute nothing")
    return report(Verdict.EQUIVALENT, f"{proof}{left_out}")


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


def _integers(left: nn.Module, right: nn.Module, shape: Shape, seed: int, moved: Moved | None) -> Evidence:
    try:
        found = run_on_integers(left, right, shape, base_dtype(left, right), seed, Memory(), moved)
        if found.differing() and not correspond_as(found, left, right, shape, seed):
            return Evidence("lattice", OUTPUTS, None, "not applicable: equal only with the weights as given")
    except (NotApplicable, UnsupportedOperation) as error:
        return Evidence("lattice", OUTPUTS, None, f"not applicable: {error}")
    if OUTPUTS in found.differing():
        return Evidence("lattice", OUTPUTS, False, f"not equal in {found.description}")
    return Evidence("lattice", OUTPUTS, None if found.vacuous else True, f"equal in {found.description}")


def _shape(model: nn.Module, mode: Mode) -> Shape:
    """A small input; in training a norm needs more than one value for each channel."""
    return (1 if mode == "eval" else 2, *example(model).shape[1:])


def _is_silent(block: RecognizedBlock) -> bool:
    place = block.places.get("norm.weight")
    return place is not None and not dict(tensors_of(block.module))[place.path].any()
