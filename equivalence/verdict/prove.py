"""The proof: both modules agree at random points of a finite field, in every experiment.

Guarantee: if `Proof.holds`, the modules are equal for every real input of the shapes covered, as
expressions in the ring operations and in the named nonlinear functions, except with the stated
probability; see `arithmetic.field.probability` for its derivation. What the field cannot follow is
never guessed: then `holds` is None and the reason names the operation and the submodule.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TYPE_CHECKING

import torch

from equivalence.arithmetic.errors import RedrawPrimes
from equivalence.arithmetic.field import Field, FieldTensor
from equivalence.blocks.forms import Block
from equivalence.blocks.recognize import RecognizedBlock
from equivalence.verdict.evaluate import PRIMES, UnfollowedModule, Weights, evaluate, recognised
from equivalence.verdict.experiments import OUTPUTS, comparable, correspond, paired
from equivalence.verdict.memory import Memory
from equivalence.verdict.modules import Shape, base_dtype, widest_dtype

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from equivalence.arithmetic.floating import Mode
    from equivalence.verdict.lattice import OnIntegers
    from equivalence.weights.sides import Side

TARGET = -64.0
_MOST_PRIMES = 48


@dataclasses.dataclass(frozen=True)
class Proof:
    """Whether two modules were proved equal, and how sure that is.

    Attributes:
        holds: True if every experiment agreed at every shape; False if one did not, which means
            *not proved*, not different; None if the field could not follow a module.
        experiments: whether each experiment agreed, by name; at all shapes.
        log2_error: log2 of the probability that unequal modules were seen as equal.
        shapes: the input shapes `(N, C, H, W)` that were covered.
        mode: "eval" or "train".
        weights: "given", or "all" if it holds for all weights under the correspondence.
        primes: number of primes that the residues were taken modulo.
        reason: what stood in the way, if anything.
        too_large: whether that is the size of what was evaluated: no number of primes makes it sure.
    """

    holds: bool | None
    experiments: dict[str, bool]
    log2_error: float
    shapes: tuple[Shape, ...]
    mode: Mode
    weights: Weights
    primes: int
    reason: str | None = None
    too_large: bool = False

    def __bool__(self) -> bool:
        return self.holds is True

    def __str__(self) -> str:
        if self.holds is None:
            return f"cannot be followed: {self.reason}"
        covered = " and ".join(map(str, self.shapes))
        if not self.holds:
            failed = ", ".join(name for name, agreed in self.experiments.items() if not agreed)
            return f"not proved at {covered}: {failed} differ as expressions"
        of_weights = "all weights and " if self.weights == "all" else ""
        return (
            f"proved for {of_weights}every input of shape {covered}, wrong with a probability below 2^{self.log2_bound}"
        )

    @property
    def by_experiment(self) -> tuple[tuple[str, bool | None], ...]:
        """What it says of each experiment; nothing of outputs, if a module could not be followed."""
        return tuple(self.experiments.items()) if self.holds is not None else ((OUTPUTS, None),)

    @property
    def log2_bound(self) -> int:
        """The exponent, rounded up to an integer: the probability of error is below 2 to it."""
        return int(-(-self.log2_error // 1))


def prove(
    left: nn.Module,
    right: nn.Module,
    *,
    input_shape: Shape | None = None,
    mode: Mode = "eval",
    weights: Weights = "given",
    gradients: bool = True,
    seed: int = 0,
) -> Proof:
    """Run both modules over a finite field and say whether they are equal for every input.

    >>> from equivalence import BlockSpec, Grouped, PerBranch, transfer
    >>> spec = BlockSpec(in_channels=8, cardinality=2, width=3)
    >>> a, c = PerBranch(spec), Grouped(spec)
    >>> prove(a, c).holds
    False
    >>> _ = transfer(a, c)
    >>> print(prove(a, c, input_shape=(2, 8, 5, 5)))  # doctest: +ELLIPSIS
    proved for every input of shape (2, 8, 5, 5), wrong with a probability below 2^-...

    Args:
        left, right: any two modules; they are left as they were found.
        input_shape: `(N, C, H, W)`; for two forms of a block, by default shapes of both parities
            that have corners, edges and an interior.
        mode: "eval": outputs and the input's gradient; "train": also what a step leaves behind.
        weights: "given" takes them as they are; "all" proves blocks of one spec, ours or
            recognised ones, for every weight, moved by the correspondence.
        gradients: whether to prove the input's gradient in evaluation mode too.
        seed: of primes, inputs and random functions.

    Returns:
        the proof; printed, it is one sentence.

    Raises:
        ValueError: if a shape is needed and not given, or "all" is asked of other modules.

    Source: Schwartz–Zippel; Xie et al. 2016, footnote 3, is the theorem for three forms.
    """
    shapes = (input_shape,) if input_shape is not None else default_shapes(left, right)
    return prove_shapes(left, right, shapes, mode, weights, gradients=gradients, seed=seed)


def default_shapes(left: nn.Module, right: nn.Module) -> tuple[Shape, ...]:
    """Shapes that a form's proof covers by default: both parities, with an interior, N of 2 and 1.

    Raises:
        ValueError: if the modules are not two forms, whose spec would tell.
    """
    specs = [module.spec for module in (left, right) if isinstance(module, Block)]
    if specs:
        size = max(spec.dilation * (spec.kernel_size - 1) for spec in specs) + 3
        other = size + 1 if any(spec.stride > 1 for spec in specs) else size - 1
        return specs[0].input_shape(batch=2, size=size), specs[0].input_shape(batch=1, size=other)
    raise ValueError("input_shape is needed: neither module is a form, whose spec would tell it")


def prove_shapes(
    left: nn.Module,
    right: nn.Module,
    shapes: Sequence[Shape],
    mode: Mode,
    weights: Weights,
    *,
    gradients: bool,
    seed: int,
    memory: Memory | None = None,
    sgd: bool = True,
) -> Proof:
    """`prove` at several shapes, in one run with one probability of error."""
    memory = memory or Memory()
    if weights == "all":
        for module in (left, right):
            located_in(module, shapes[0], memory)
    primes, salt, dtype = PRIMES[mode], 0, widest_dtype(left, right)
    while True:
        make = functools.partial(Field, seed + salt, primes, dtype)
        field = memory.recall(("field", seed, salt, primes, dtype), make)
        run = _Run(field, tuple(shapes), mode, weights, gradients, memory, sgd)
        try:
            # The left one alone tells how many primes are needed.
            if primes < (wanted := run.primes_needed(left)):
                if wanted > _MOST_PRIMES:
                    return run.too_large(wanted)
                primes = int(wanted)
                continue
            proof = run.proof(left, right)
        except RedrawPrimes:
            salt += 2**32
            continue
        if not proof.holds or proof.log2_error < TARGET:
            return proof
        if primes >= _MOST_PRIMES:
            return run.too_large(primes + 1)
        primes += 1


def located_in(module: nn.Module | RecognizedBlock, shape: Shape, memory: Memory) -> Side:
    """Where a module keeps the weights of its blocks; a block that was recognised already is not searched again."""
    about = module.module if isinstance(module, RecognizedBlock) else module
    return memory.recall("located", lambda: recognised(module, shape), about)


@dataclasses.dataclass(frozen=True)
class _Run:
    """One field, and all that is evaluated over it."""

    field: Field
    shapes: tuple[Shape, ...]
    mode: Mode
    weights: Weights
    gradients: bool
    memory: Memory
    sgd: bool

    def results(self, module: nn.Module, side: str) -> dict[tuple[Shape, str], Tensor]:
        """All experiments of one module at all shapes, evaluated once."""
        located = located_in(module, self.shapes[0], self.memory) if self.weights == "all" else None
        return self.memory.recall(
            ("field results", self.shapes, self.mode, self.weights, self.gradients, self.sgd),
            lambda: evaluate(
                self.field, module, side, self.shapes, self.mode, located, gradients=self.gradients, sgd=self.sgd
            ),
            self.field,
            module,
        )

    def primes_needed(self, left: nn.Module) -> float:
        """How many primes make the probability of error small enough, as far as one module shows."""
        try:
            results = self.results(left, "left")
        except UnfollowedModule:
            return 0
        return self.field.primes_needed(TARGET, *(t for t in results.values() if isinstance(t, FieldTensor)))

    def too_large(self, primes: float) -> Proof:
        """Nothing proved, because so many primes would be needed."""
        reason = f"its expressions are so large that {primes:.0f} primes would be needed, more than {_MOST_PRIMES}"
        if math.isinf(primes):
            reason = "its expressions are so large that no number of primes would do"
        return Proof(None, {}, 0.0, self.shapes, self.mode, self.weights, self.field.count, reason, too_large=True)

    def proof(self, left: nn.Module, right: nn.Module) -> Proof:
        """Whether the two agree in every experiment at every shape."""
        experiments: dict[str, bool] = {}
        outputs: list[FieldTensor] = []
        reason = None
        forms = isinstance(left, Block) and isinstance(right, Block)
        by_name = correspond(left, right) or (self.weights == "all" and forms)
        try:
            a, b = self.results(left, "left"), self.results(right, "right")
            for shape in self.shapes:
                own, other = ({name: t for (s, name), t in side.items() if s == shape} for side in (a, b))
                for name, results in paired(*comparable(own, other, by_name=by_name)).items():
                    experiments[name] = experiments.get(name, True) and _agree(*results)
            outputs = [t for t in (*a.values(), *b.values()) if isinstance(t, FieldTensor)]
        except UnfollowedModule as error:
            reason = str(error)
        return Proof(
            holds=None if reason else all(experiments.values()),
            experiments=experiments,
            log2_error=self.field.log2_error(*outputs),
            shapes=self.shapes,
            mode=self.mode,
            weights=self.weights,
            primes=self.field.count,
            reason=reason,
        )


def correspond_as(found: OnIntegers, left: nn.Module, right: nn.Module, shape: Shape, seed: int) -> bool:
    """Whether two modules are proved equal with the integers as weights: otherwise unequal results say nothing."""
    field = Field(seed, PRIMES["eval"], base_dtype(left, right))
    sides = zip(("left", "right"), (left, right), found.given, strict=True)
    try:
        one, other = (
            evaluate(field, module, side, [shape], "eval", state=given.weights, gradients=False)[shape, OUTPUTS]
            for side, module, given in sides
        )
    except UnfollowedModule:
        return False
    return _agree(one, other) and isinstance(one, FieldTensor)


def _agree(left: Tensor | None, right: Tensor | None) -> bool:
    if isinstance(left, FieldTensor) and isinstance(right, FieldTensor):
        return FieldTensor.equal(left, right)
    # Counters of batches are plain integers in every arithmetic.
    return left is not None and right is not None and type(left) is type(right) and torch.equal(left, right)
