"""The ladder of evidence: climbed from the cheapest to the dearest until a verdict follows.

Guarantee: each rung adds to the evidence what it showed, and a verdict follows from that alone (see `check`).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import nn

from equivalence.arithmetic.errors import UnsupportedOperation
from equivalence.arithmetic.floating import compare
from equivalence.arithmetic.lattice import NotApplicable
from equivalence.arithmetic.rounding import Rounding, RoundingTensor
from equivalence.verdict.evaluate import idle_parameters
from equivalence.verdict.experiments import INPUT_GRADIENT, OUTPUTS, paired
from equivalence.verdict.lattice import run_on_integers, side_that_is_off
from equivalence.verdict.locate.find import located
from equivalence.verdict.modules import base_dtype
from equivalence.verdict.preflight import (
    Reach,
    both_forward,
    check_data,
    explain_backward,
    float_input,
    obstacle,
    other_shape,
    structural_difference,
)
from equivalence.verdict.prove import Proof, correspond_as, default_shapes, prove_shapes
from equivalence.verdict.verdict import Evidence, Verdict
from equivalence.verdict.witness import bounded, find_witness

if TYPE_CHECKING:
    from torch import Tensor

    from equivalence.arithmetic.difference import Quantity
    from equivalence.arithmetic.floating import Mode
    from equivalence.verdict.evaluate import Weights
    from equivalence.verdict.locate.place import Place
    from equivalence.verdict.memory import Memory
    from equivalence.verdict.modules import Shape


class Ladder:
    """Evidence from the cheapest to the dearest, until a verdict follows."""

    def __init__(
        self,
        left: nn.Module,
        right: nn.Module,
        input_shape: Shape | None,
        mode: Mode,
        weights: Weights,
        seed: int,
        experiments: tuple[str, ...] | None,
        memory: Memory,
    ) -> None:
        self.memory = memory
        self.modules = (left, right)
        self.mode, self.weights, self.seed = mode, weights, seed
        self.experiments = experiments
        asked = default_shapes(left, right) if input_shape is None else (tuple(input_shape),)
        check_data(self.modules)
        reach = Reach(asked[0][2:])
        outputs = {shape: both_forward(self.modules, shape, mode, seed, reach) for shape in asked}
        if input_shape is not None or reach.factor > 1:
            outputs |= other_shape(self.modules, asked[0], mode, seed, reach.factor)
        self.outputs, self.shapes = [*outputs.values()], (*outputs,)
        self.evidence: list[Evidence] = []
        self.unproved = False
        self.x = float_input(self.modules, asked[0], seed)
        try:
            self.quantities = compare(left, right, self.x, mode=mode, gradients=True, seed=seed).quantities
        except Exception:
            explain_backward(self.modules, self.x, mode, seed)
            raise

    def climb(self) -> tuple[Verdict, str]:
        """The verdict and its reason, which says so if not everything was compared."""
        verdict, reason = self.judged()
        if self.experiments is not None:
            reason = f"{reason}; compared: {', '.join(self.experiments)}"
        return verdict, reason

    def wanted(self, experiment: str) -> bool:
        """Whether it is one of those that are compared."""
        return self.experiments is None or experiment in self.experiments

    def judged(self) -> tuple[Verdict, str]:
        """What follows from the evidence, which is kept on the way."""
        for outputs, shape in zip(self.outputs, self.shapes, strict=True):
            if difference := structural_difference(outputs, shape):
                return Verdict.DIFFERENT, difference
        if reason := obstacle(self.modules, self.outputs[0], self.shapes[0], self.mode, self.seed):
            return Verdict.UNDECIDED, reason
        proof = self.proof()
        if not proof:
            if self.weights == "all" and proof.holds is None:
                return Verdict.UNDECIDED, str(proof)  # a witness would speak of the given weights
            self.unproved = True
            return self.witness(proof)
        if self.weights == "all":
            return Verdict.EQUIVALENT, str(proof)
        if silent := self.silent():
            return Verdict.UNDECIDED, silent
        if reason := self.not_finite():
            return Verdict.UNDECIDED, reason
        contradiction = self.integers() or self.rounding()
        if contradiction:
            return Verdict.DIFFERENT, contradiction
        return Verdict.EQUIVALENT, str(proof)

    def proof(self) -> Proof:
        """The field's evidence, one for each experiment."""
        proof = prove_shapes(
            *self.modules, self.shapes, self.mode, self.weights, gradients=True, seed=self.seed, memory=self.memory
        )
        kept = {name: agreed for name, agreed in proof.experiments.items() if self.wanted(name)}
        if not kept and proof.holds is not None:
            proof = dataclasses.replace(proof, holds=None, reason="neither module has what is compared")
        elif proof.holds is not None:
            proof = dataclasses.replace(proof, holds=all(kept.values()), experiments=kept)
        probability = 2.0**proof.log2_bound
        if proof.holds is None:
            self.evidence.append(Evidence("field", OUTPUTS, None, str(proof)))
        for name, agreed in proof.experiments.items() if proof.holds is not None else ():
            statement = "equal as expressions" if agreed else "not equal as expressions: not proved"
            sure = probability if agreed else None
            self.evidence.append(Evidence("field", name, agreed, statement, sure))
        return proof

    def witness(self, proof: Proof) -> tuple[Verdict, str]:
        """What follows when there is no proof: a witness, or nothing."""
        try:
            found = find_witness(*self.modules, self.shapes, self.mode, self.seed, self.experiments)
        except UnsupportedOperation as error:
            self.evidence.append(Evidence("rounding", OUTPUTS, None, str(error)))
            return Verdict.UNDECIDED, f"{proof}, and no bound on rounding: {error}"
        if found is None:
            statement = "no input found on which they differ beyond rounding"
            self.evidence.append(Evidence("rounding", OUTPUTS, None, statement))
            return Verdict.UNDECIDED, f"{proof}, and {statement}"
        self.evidence.append(Evidence("rounding", found.experiment, False, str(found)))
        return Verdict.DIFFERENT, str(found)

    def located(self) -> Place | None:
        """Where they part, as far as rounding can be bounded."""
        return located(*self.modules, self.shapes[0], self.mode, self.seed)

    def silent(self) -> str | None:
        """Why agreement would say little: parameters that have no influence."""
        for side, module in zip(("left", "right"), self.modules, strict=True):
            if idle := idle_parameters(module, self.shapes[0], self.seed):
                return (
                    f"{idle[0]} and {len(idle) - 1} more parameters of {side} have no influence, "
                    "because others are zero: vacuous; check with weights='all' or other weights"
                )
        return None

    def not_finite(self) -> str | None:
        """Why equal expressions may still differ: one of them is no number somewhere."""
        for (left, right), shape in zip(self.outputs, self.shapes, strict=True):
            if not torch.equal(left.isfinite().cpu(), right.isfinite().cpu()):
                return f"equal as expressions, but only one side is finite everywhere, on an input of shape {shape}"
        return None

    def integers(self) -> str | None:
        """The lattice's evidence; returns a contradiction, if there is one."""
        dtype = base_dtype(*self.modules)
        try:
            found = run_on_integers(*self.modules, self.shapes[0], dtype, self.seed, self.memory)
        except NotApplicable as error:
            self.evidence.append(Evidence("lattice", OUTPUTS, None, f"not applicable: {error}"))
            return None
        differing = [name for name in found.differing() if self.wanted(name)]
        if differing and not correspond_as(found, *self.modules, self.shapes[0], self.seed):
            statement = "not applicable: the weights are related otherwise than by copying"
            self.evidence.append(Evidence("lattice", OUTPUTS, None, statement))
            return None
        contradiction = None
        for name in filter(self.wanted, paired(*found.results)):
            if name in differing:
                side = side_that_is_off(*self.modules, found, name)
                if name == INPUT_GRADIENT and side.startswith("neither"):
                    # Integers hit kinks and ties, where a derivative is a convention.
                    statement = "not applicable: other conventions for the derivative at a kink"
                    self.evidence.append(Evidence("lattice", name, None, statement))
                    continue
                contradiction = f"{name} on integers: a kernel is wrong, {side}"
                self.evidence.append(Evidence("lattice", name, False, contradiction))
                continue
            statement = f"equal in {found.description}"
            holds = None if found.vacuous else True
            self.evidence.append(Evidence("lattice", name, holds, statement))
        return contradiction

    def rounding(self) -> str | None:
        """How much of what rounding allows was seen; returns a contradiction, if there is one."""
        if not self.wanted(OUTPUTS):
            return None
        dtype = base_dtype(*self.modules)
        try:
            bounds = [self.bounded_outputs(module, Rounding(dtype)) for module in self.modules]
        except UnsupportedOperation as error:
            self.evidence.append(Evidence("rounding", OUTPUTS, None, f"no bound: {error}"))
            return None
        left, right = bounds
        if not (isinstance(left, RoundingTensor) and isinstance(right, RoundingTensor)):
            return None
        allowed = left.bound + right.bound
        share, at = _share(*self.outputs[0], allowed)
        self.quantities = tuple(_with_bound(q, allowed) for q in self.quantities)
        statement = f"greatest difference in floats is {share:.2g} of what rounding allows"
        self.evidence.append(Evidence("rounding", OUTPUTS, share <= 1, statement, bound_fraction=share))
        return None if share <= 1 else f"outputs{at}: {statement}, so a kernel is wrong"

    def bounded_outputs(self, module: nn.Module, rounding: Rounding) -> Tensor:
        """What rounding in the modules' floats can make of the outputs at most."""
        return self.memory.recall(
            ("bounded", self.x.shape, self.mode, self.seed, rounding.dtype),
            lambda: bounded(module, self.x, rounding, self.mode, self.seed, gradients=False)[OUTPUTS],
            module,
        )


def _share(left: Tensor, right: Tensor, allowed: Tensor) -> tuple[float, list[int]]:
    """The greatest part of the bound that a difference takes up, and where."""
    apart = (left.cpu().double() - right.cpu().double()).abs()
    # Where floats may overflow nothing is known, and two infinities are no difference.
    share = torch.where((apart == 0) | allowed.isinf(), 0.0, apart / allowed).nan_to_num(torch.inf)
    at = torch.unravel_index(share.argmax(), share.shape)
    return float(share.max()), [int(i) for i in at]


def _with_bound(quantity: Quantity, allowed: Tensor) -> Quantity:
    if quantity.name != "output" or quantity.problem:
        return quantity
    return dataclasses.replace(quantity, bound=float(allowed[quantity.index]))
