"""The kill table: every fault planted in every form, and what caught it.

Guarantee: a fault counts as killed only with a witness, two values farther apart than rounding can explain, or another
output shape. A harmless change counts as accepted only if no input tried gives a witness; where the field proves it
equal, the table says so. The unfaulted side is run once for each kind of input and remembered, so that a table costs
little more than running the faulted side.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from typing import TYPE_CHECKING

import torch

from equivalence.arithmetic.field import Field, FieldTensor
from equivalence.arithmetic.preserve import random_state, seed_everything
from equivalence.blocks.forms import FORMS, Block
from equivalence.blocks.initialize import as_if_trained
from equivalence.verdict.evaluate import UnfollowedModule, evaluate
from equivalence.verdict.experiments import OUTPUTS
from equivalence.verdict.faults.fault import DoesNotApply
from equivalence.verdict.faults.others import others
from equivalence.verdict.locate.seen import parting, seen, shows
from equivalence.verdict.preflight import float_input, forward, structural_difference
from equivalence.verdict.witness import witness_input
from equivalence.weights.transfer import transfer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor

    from equivalence.arithmetic.floating import Mode
    from equivalence.blocks.spec import BlockSpec
    from equivalence.verdict.faults.fault import Fault
    from equivalence.verdict.modules import Shape
    from equivalence.verdict.preflight import Outputs

_PARTNERS = {"per-branch": "grouped", "concatenated": "grouped", "grouped": "concatenated"}
# The plain input first; the others reach what it leaves untouched, such as the far side of ReLU6.
_INPUTS = ("normal × 1", "normal × 1000", "normal × 1e+08", "positive", "alternating", "constant", "normal × 0.001")


@dataclasses.dataclass(frozen=True)
class Trial:
    """One fault planted in one form.

    Attributes:
        fault: its name; sentence and group beside it.
        form: the form that it was planted in.
        partner: the form that it was held against.
        outcome: "killed", "survived", "accepted" or "called different" (harmless changes), "not applicable".
        evidence: which arithmetic and experiment decided it.
        stage: the first stage that parted.
        expected: the stage at which the fault should be found.
        statement: the figure, or the reason why it does not apply.
        seconds: until the decision.
        tools: what other tools say of both outputs in the block's floats: True if they are taken for the same.
    """

    fault: str
    sentence: str
    group: str
    form: str
    partner: str
    outcome: str
    evidence: str = ""
    stage: str = ""
    expected: str = ""
    statement: str = ""
    seconds: float = 0.0
    tools: dict[str, bool] = dataclasses.field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether the check was blind, or cried wolf."""
        return self.outcome in ("survived", "called different")


class Bench:
    """The unfaulted forms of one block, with what they give remembered.

    Args:
        spec: the block.
        seed: of weights, spots and inputs.
    """

    def __init__(self, spec: BlockSpec, seed: int = 0) -> None:
        self.seed = seed
        with random_state():
            seed_everything(seed)
            self.forms: dict[str, Block] = {name: form(spec).eval() for name, form in FORMS.items()}
        first, *rest = self.forms.values()
        as_if_trained(first, seed)
        for form in rest:
            transfer(first, form)
        # One full kernel in the middle, all borders around it: the smallest input that has both.
        size = spec.dilation * (spec.kernel_size - 1) + 1 + (spec.stride > 1)
        self.shape: Shape = spec.input_shape(batch=2, size=size)
        self.x = float_input((first, first), self.shape, seed)
        self.field = Field(seed, 9, torch.float32)
        self._seen: dict[tuple[str, str, Mode, bool], dict[str, Tensor]] = {}
        self._proved: dict[str, Tensor] = {}
        self._outputs: dict[tuple[str, Mode], Tensor] = {}

    def trial(self, fault: Fault, form: str) -> Trial:
        """Plant a fault in a form and hold it against the unfaulted partner."""
        partner = _PARTNERS[form]
        blank = Trial(fault.name, fault.sentence, fault.group, form, partner, "not applicable", expected=fault.stage)
        try:
            planted = fault.plant(self.forms[form], seed=self.seed)
        except DoesNotApply as reason:
            return dataclasses.replace(blank, statement=str(reason))
        start = time.perf_counter()
        outputs = self.output(partner, fault.mode), forward(planted, "right", self.x, fault.mode, self.seed)
        if fault.harmless:
            judged = self._accepted(planted, partner, blank)
        else:
            judged = self._killed(planted, outputs, fault, blank)
        seconds = time.perf_counter() - start
        tools = {name: says(*outputs) for name, says in others().items()}
        return dataclasses.replace(judged, seconds=seconds, tools=tools)

    def _killed(self, planted: Block, outputs: Outputs, fault: Fault, blank: Trial) -> Trial:
        if difference := structural_difference(outputs, self.shape):
            return dataclasses.replace(
                blank, outcome="killed", evidence="structure", stage="output", statement=difference
            )
        return self._witnessed(planted, blank, fault.mode, "killed") or dataclasses.replace(
            blank, outcome="survived", statement="no input tried tells them apart"
        )

    def _witnessed(self, planted: Block, blank: Trial, mode: Mode, outcome: str) -> Trial | None:
        """The cheapest witness first: outputs on the plain input, then gradients, then other inputs."""
        steps: Iterable[tuple[str, bool]] = [(name, False) for name in _INPUTS]
        first, *rest = steps
        steps = [(_INPUTS[0], True), *rest] if mode == "train" else [first, (_INPUTS[0], True), *rest]
        for pattern, gradients in steps:
            left = self.seen(blank.partner, pattern, mode, gradients=gradients)
            right = self._run(planted, pattern, mode, gradients=gradients)
            if shows(left, right) and (found := parting(left, right)):
                experiment = found.quantity if gradients else OUTPUTS
                statement = f"{found}; input {pattern} of shape {self.shape}"
                return dataclasses.replace(
                    blank, outcome=outcome, evidence=f"rounding, {experiment}", stage=found.stage, statement=statement
                )
        return None

    def _accepted(self, planted: Block, partner: str, blank: Trial) -> Trial:
        shape = self.shape
        if partner not in self._proved:
            clean = self.forms[partner]
            self._proved[partner] = evaluate(self.field, clean, "left", [shape], "eval", gradients=False)[
                shape, OUTPUTS
            ]
        try:
            theirs = evaluate(self.field, planted, "right", [shape], "eval", gradients=False)[shape, OUTPUTS]
        except UnfollowedModule as error:
            return dataclasses.replace(blank, outcome="accepted", evidence="", statement=str(error))
        ours = self._proved[partner]
        if isinstance(ours, FieldTensor) and isinstance(theirs, FieldTensor) and FieldTensor.equal(ours, theirs):
            log2 = int(-(-self.field.log2_error(ours, theirs) // 1))
            statement = f"equal for every input of shape {shape}, wrong with a probability below 2^{log2}"
            return dataclasses.replace(
                blank, outcome="accepted", evidence=f"field, {OUTPUTS}", stage="nowhere", statement=statement
            )
        return self._witnessed(planted, blank, "eval", "called different") or dataclasses.replace(
            blank, outcome="accepted", stage="nowhere", statement="not proved, and no witness"
        )

    def output(self, form: str, mode: Mode) -> Tensor:
        """The unfaulted form's output in its own floats, remembered."""
        if (form, mode) not in self._outputs:
            self._outputs[form, mode] = forward(self.forms[form], "left", self.x, mode, self.seed)
        return self._outputs[form, mode]

    def seen(self, form: str, pattern: str, mode: Mode, *, gradients: bool) -> dict[str, Tensor]:
        """What the unfaulted form shows on an input, remembered."""
        key = (form, pattern, mode, gradients)
        if key not in self._seen:
            self._seen[key] = self._run(self.forms[form], pattern, mode, gradients=gradients)
        return self._seen[key]

    def _run(self, module: Block, pattern: str, mode: Mode, *, gradients: bool) -> dict[str, Tensor]:
        x = witness_input(pattern, self.shape, torch.float32, self.seed)
        return seen(module, x, torch.float32, mode, self.seed, gradients=gradients)


def kill_table(spec: BlockSpec, faults: Iterable[Fault], seed: int = 0) -> Iterator[Trial]:
    """Plant each fault in each form and say what catches it.

    >>> from equivalence import BlockSpec
    >>> from equivalence.verdict.faults import fault_named
    >>> spec = BlockSpec(in_channels=4, cardinality=2, width=2)
    >>> [trial.outcome for trial in kill_table(spec, [fault_named("one-ulp-in-reduce")])]
    ['killed', 'killed', 'killed']

    Args:
        spec: the block.
        faults: those to plant.
        seed: of weights, spots and inputs.
    """
    bench = Bench(spec, seed)
    for fault, form in itertools.product(faults, FORMS):
        yield bench.trial(fault, form)
