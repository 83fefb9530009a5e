"""The proof: both modules agree at random points of a finite field, in every experiment.

Guarantee: if `Proof.holds`, the modules are equal for every real input of the shapes covered, as
expressions in the ring operations and in the named nonlinear functions, except with the stated
probability; see `arithmetic.field.probability` for its derivation. What the field cannot follow is
never guessed: then `holds` is None and the reason names the operation and the submodule.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.func import functional_call

from equivalence.arithmetic.errors import RedrawPrimes
from equivalence.arithmetic.field import Field, FieldTensor
from equivalence.arithmetic.location import locating
from equivalence.arithmetic.preserve import as_found
from equivalence.blocks.forms import Block
from equivalence.blocks.recognition.errors import RecognitionError
from equivalence.verdict.experiments import Probe, comparable, correspond, paired, run
from equivalence.verdict.memory import Memory
from equivalence.verdict.modules import Shape, base_dtype, original, tensors_of, widest_dtype
from equivalence.weights.correspondence import ROWS
from equivalence.weights.sides import side_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor, nn

    from equivalence.arithmetic.floating import Mode
    from equivalence.weights.sides import Side

Weights = Literal["given", "all"]

TARGET = -64.0
# Enough for a block; what turns out too few is run again with more.
_PRIMES = {"eval": 9, "train": 12}
_MOST_PRIMES = 48
# Of all counters where weights are random: forms that correspond have seen as many batches.
_BATCHES_SEEN = 3


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
    """

    holds: bool | None
    experiments: dict[str, bool]
    log2_error: float
    shapes: tuple[Shape, ...]
    mode: Mode
    weights: Weights
    primes: int
    reason: str | None = None

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
) -> Proof:
    """`prove` at several shapes, in one run with one probability of error."""
    if weights == "all":
        for module in (left, right):
            _recognised(module, shapes[0])
    memory = memory or Memory()
    primes, salt, dtype = _PRIMES[mode], 0, widest_dtype(left, right)
    while True:
        make = functools.partial(Field, seed + salt, primes, dtype)
        field = memory.recall(("field", salt, primes, dtype), make)
        run = _Run(field, tuple(shapes), mode, weights, gradients, memory)
        try:
            proof = run.proof(left, right)
        except RedrawPrimes:
            salt += 2**32
            continue
        if not proof.holds or proof.log2_error < TARGET:
            return proof
        if primes >= _MOST_PRIMES:
            reason = f"the probability of error is only below 2^{proof.log2_bound}"
            return dataclasses.replace(proof, holds=None, reason=reason)
        primes = min(_MOST_PRIMES, primes + primes // 2)


@dataclasses.dataclass(frozen=True)
class _Run:
    """One field, and all that is evaluated over it."""

    field: Field
    shapes: tuple[Shape, ...]
    mode: Mode
    weights: Weights
    gradients: bool
    memory: Memory

    def results(self, module: nn.Module, side: str) -> dict[tuple[Shape, str], Tensor]:
        """All experiments of one module at all shapes, evaluated once."""
        question = ("field results", id(self.field), id(module), self.shapes, self.mode, self.weights, self.gradients)
        return self.memory.recall(
            question,
            lambda: evaluate(self.field, module, side, self.shapes, self.mode, self.weights, gradients=self.gradients),
        )

    def proof(self, left: nn.Module, right: nn.Module) -> Proof:
        """Whether the two agree in every experiment at every shape."""
        experiments: dict[str, bool] = {}
        outputs: list[FieldTensor] = []
        reason = None
        by_name = self.weights == "all" or correspond(left, right)
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


class UnfollowedModule(RuntimeError):
    """An arithmetic cannot follow a module; says the side, the operation and the submodule."""


def evaluate(
    field: Field,
    module: nn.Module,
    side: str,
    shapes: Sequence[Shape],
    mode: Mode,
    weights: Weights = "given",
    *,
    gradients: bool = True,
    state: Mapping[str, Tensor] | None = None,
) -> dict[tuple[Shape, str], Tensor]:
    """All experiments of one module over the field, with `state` in place of its own tensors.

    Raises:
        UnfollowedModule: naming the operation and the submodule.
    """
    module = original(module)

    def attempt() -> dict[tuple[Shape, str], Tensor]:
        results = {}
        with as_found(module):
            own = tensors_of(module) if state is None else dict(state)
            lifted = lift(field, module, weights, own, shapes[0])
            for shape in shapes:
                if _written(lifted):
                    lifted = lift(field, module, weights, own, shapes[0])
                found = run(module, lifted, _probe(field, shape), mode, gradients=gradients)
                results.update({(shape, name): tensor for name, tensor in found.items()})
        return results

    try:
        return attempt()
    except RedrawPrimes:
        raise
    except Exception as error:
        raise UnfollowedModule(f"{side}: {_located(module, attempt) or error}") from error


def _probe(field: Field, shape: Shape) -> Probe:
    """Random residues for input and cotangent, the same for every module."""
    key = "x".join(map(str, shape))
    return Probe(
        x=field.variables(shape, f"{key}/x"),
        later=field.variables(shape, f"{key}/later"),
        cotangent=lambda y: field.variables(y.shape, f"{key}/cotangent", y.dtype),
    )


def _written(lifted: Mapping[str, Any]) -> bool:
    """Whether a run has left something behind: the next has to start from the given state."""
    return any(
        tensor._version if not isinstance(tensor, FieldTensor) else tensor.state.version for tensor in lifted.values()
    )


def _located(module: nn.Module, attempt: Callable[[], object]) -> Exception | None:
    """The error of running again while listening for where it happens."""
    with locating(module):
        try:
            attempt()
        except Exception as error:
            return error
    return None


def lift(field: Field, module: nn.Module, weights: Weights, own: Mapping[str, Tensor], shape: Shape) -> dict[str, Any]:
    """Parameters and buffers over the field: their own values, or random ones that correspond."""
    copies = {name: tensor if tensor.is_floating_point() else tensor.clone() for name, tensor in own.items()}
    if weights == "given":
        return field.embed_all(copies)
    side = _recognised(module, shape)
    return {**copies, **_corresponding(field, side, copies)}


def _recognised(module: nn.Module, shape: Shape) -> Side:
    """Where a module keeps the weights of its blocks, which all weights are drawn for.

    Raises:
        ValueError: if it has no block that is recognised.
    """
    try:
        return side_of(module, shape)
    except RecognitionError as error:
        raise ValueError(
            f"weights='all' needs two forms of one block, or blocks that are recognised, "
            f"but a {type(module).__name__} is none: {error}"
        ) from None


def _corresponding(field: Field, side: Side, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One random residue for every scalar of the canonical arrangement, as each column keeps it."""
    drawn: dict[str, Any] = {}
    for number, block in enumerate(side.blocks):
        cardinality = block.spec.cardinality
        for row in ROWS:
            names = row.names(block.column, cardinality)
            if not names or names[0] not in tensors:
                continue
            if not tensors[names[0]].is_floating_point():
                drawn |= {name: torch.full_like(tensors[name], _BATCHES_SEEN) for name in names}
                continue
            shape = row.gather(block.column, [tensors[name] for name in names], cardinality).shape
            canonical = field.variables(shape, f"weights/{number}/{row.name}")
            for name, own in zip(names, row.scatter_parts(block.column, canonical.parts, cardinality), strict=True):
                drawn[name] = field.wrap(own, canonical.state.copy(), tensors[name].dtype)
    for number, name in enumerate(side.rest):
        if tensors[name].is_floating_point():
            drawn[name] = field.variables(tuple(tensors[name].shape), f"weights/rest/{number}")
    return drawn


def _agree(left: Tensor | None, right: Tensor | None) -> bool:
    if isinstance(left, FieldTensor) and isinstance(right, FieldTensor):
        return FieldTensor.equal(left, right)
    # Counters of batches are plain integers in every arithmetic.
    return left is not None and right is not None and type(left) is type(right) and torch.equal(left, right)


def idle_parameters(module: nn.Module, shape: Shape, seed: int) -> list[str]:
    """The parameters that have no influence on the output in evaluation mode, whatever the input.

    Their gradient is zero over the field. Only a module with an all-zero tensor is looked at: that
    is what silences others.
    """
    module = original(module)
    zeros = [n for n, p in module.named_parameters() if p.numel() and not p.any()]
    if not zeros:
        return []
    field = Field(seed, _PRIMES["eval"], base_dtype(module))
    with as_found(module):
        tensors = lift(field, module, "given", tensors_of(module), shape)
        names = [name for name, _ in module.named_parameters()]
        leaves = {name: tensors[name].detach().requires_grad_() for name in names}
        module.eval()
        output = functional_call(module, {**tensors, **leaves}, (field.variables(shape, "idle"),))
        if not output.requires_grad:
            return []
        cotangent = field.variables(output.shape, "cotangent", output.dtype)
        found = torch.autograd.grad(output, list(leaves.values()), cotangent, allow_unused=True)
    return [
        name
        for name, gradient in zip(names, found, strict=True)
        # None means that the module does not use it, whatever other parameters are.
        if isinstance(gradient, FieldTensor) and not gradient.parts.any()
    ]
