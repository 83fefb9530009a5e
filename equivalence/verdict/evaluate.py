"""One module over the field: its tensors lifted, all experiments run.

Guarantee: parameters and buffers enter with their exact values (or, for all weights, as random residues that
correspond), every shape starts from the given state, and what the field cannot follow is named with its submodule.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.func import functional_call

from equivalence.arithmetic.errors import RedrawPrimes
from equivalence.arithmetic.field import Field, FieldTensor
from equivalence.arithmetic.field.bound import VARIABLE
from equivalence.arithmetic.location import locating
from equivalence.arithmetic.preserve import as_found
from equivalence.blocks.recognition.errors import RecognitionError
from equivalence.verdict.experiments import Probe, run
from equivalence.verdict.modules import Shape, base_dtype, original, tensors_of
from equivalence.weights.correspondence import ROWS
from equivalence.weights.sides import side_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor, nn

    from equivalence.arithmetic.field.draw import Draw
    from equivalence.arithmetic.floating import Mode
    from equivalence.blocks.recognize import RecognizedBlock
    from equivalence.weights.correspondence import Row
    from equivalence.weights.sides import Located, Side

Weights = Literal["given", "all"]

# Enough for a block.
PRIMES = {"eval": 9, "train": 12}
# Scalars of which random residues are made only when they are used.
_MANY = 1 << 16
# Of all counters where weights are random: forms that correspond have seen as many batches.
_BATCHES_SEEN = 3


class UnfollowedModule(RuntimeError):
    """An arithmetic cannot follow a module; says the side, the operation and the submodule."""


def evaluate(
    field: Field,
    module: nn.Module,
    side: str,
    shapes: Sequence[Shape],
    mode: Mode,
    located: Side | None = None,
    *,
    gradients: bool = True,
    sgd: bool = True,
    state: Mapping[str, Tensor] | None = None,
) -> dict[tuple[Shape, str], Tensor]:
    """All experiments of one module over the field, with `state` in place of its own tensors.

    Args:
        field: the run.
        module: any module; it is left as it was.
        side: "left" or "right", as errors call it.
        shapes: of the inputs, `(N, C, H, W)`.
        mode: "eval" or "train".
        located: where it keeps the weights of its blocks, if it is for all weights.
        gradients: whether to go backward.
        sgd: whether one of the steps in training is one of SGD.
        state: tensors to use in place of the module's own.

    Raises:
        UnfollowedModule: naming the operation and the submodule.
    """
    module = original(module)

    def attempt() -> dict[tuple[Shape, str], Tensor]:
        results = {}
        with as_found(module):
            own = tensors_of(module) if state is None else dict(state)
            lifted = lift(field, own, located)
            for shape in shapes:
                if _written(lifted):
                    lifted = lift(field, own, located)
                found = run(module, lifted, _probe(field, shape), mode, gradients=gradients, sgd=sgd)
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


def lift(field: Field, own: Mapping[str, Tensor], located: Side | None = None) -> dict[str, Any]:
    """Parameters and buffers over the field: their own values, or random ones that correspond."""
    copies = {name: tensor if tensor.is_floating_point() else tensor.clone() for name, tensor in own.items()}
    return field.embed_all(copies) if located is None else {**copies, **_corresponding(field, located, copies)}


def recognised(module: nn.Module | RecognizedBlock, shape: Shape) -> Side:
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
            pieces = shape if row.axes.startswith("c ") else (1, *shape)
            canonical = field.draw(pieces, f"weights/{number}/{row.name}")
            if math.prod(shape) < _MANY:
                parts = canonical.all().view(-1, *shape)
                for name, own in zip(names, row.scatter_parts(block.column, parts, cardinality), strict=True):
                    drawn[name] = field.wrap(own, VARIABLE.copy(), tensors[name].dtype)
                continue
            for branch, name in enumerate(names):
                kept = Kept(canonical, row, block, tuple(tensors[name].shape), branch if len(names) > 1 else None)
                drawn[name] = field.deferred(kept, tensors[name].dtype)
    for number, name in enumerate(side.rest):
        if tensors[name].is_floating_point():
            drawn[name] = field.variables(tuple(tensors[name].shape), f"weights/rest/{number}")
    return drawn


@dataclasses.dataclass(frozen=True)
class Kept:
    """Canonical variables as one tensor of a block keeps them, made when they are asked for."""

    canonical: Draw
    row: Row
    block: Located
    shape: tuple[int, ...]
    branch: int | None

    def residues(self) -> Tensor:
        """`(K, *shape)`."""
        return self._arranged(self.canonical.all() if self.branch is None else self.canonical.piece(self.branch))

    def modulo(self, number: int) -> Tensor:
        """`(1, *shape)`."""
        if self.branch is not None:
            return self.residues()[number : number + 1]
        return self._arranged(self.canonical.modulo(number))

    def _arranged(self, pieces: Tensor) -> Tensor:
        if not self.row.axes.startswith("c "):
            pieces = pieces[:, 0]
        cardinality = self.block.spec.cardinality if self.branch is None else 1
        return self.row.scatter_parts(self.block.column, pieces, cardinality)[0]


def idle_parameters(module: nn.Module, shape: Shape, seed: int) -> list[str]:
    """The parameters that have no influence on the output in evaluation mode, whatever the input.

    Their gradient is zero over the field. Only a module with an all-zero tensor is looked at: that
    is what silences others.
    """
    module = original(module)
    zeros = [n for n, p in module.named_parameters() if p.numel() and not p.any()]
    if not zeros:
        return []
    field = Field(seed, PRIMES["eval"], base_dtype(module))
    with as_found(module):
        tensors = lift(field, tensors_of(module))
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
