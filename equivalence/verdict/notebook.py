"""The seed notebook's three structures explained: which deviations break the equivalence, and the least repair.

Guarantee: every verdict is a proof in the field or a witness beyond rounding. One set of independent weights goes
to every structure, each scalar to its place; a shared branch has room for the first branch only. The structures are
the notebook's with fewer channels, so that all 32 combinations take seconds.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange

from equivalence.arithmetic.preserve import random_state, seed_everything
from equivalence.arithmetic.rounding import Rounding
from equivalence.blocks.forms import PerBranch
from equivalence.blocks.initialize import as_if_trained
from equivalence.blocks.notebook import (
    NOTEBOOK,
    PAPER,
    BottleneckA,
    BottleneckATwin,
    BottleneckB,
    BottleneckC,
    Deviations,
)
from equivalence.blocks.spec import BlockSpec
from equivalence.verdict.experiments import OUTPUTS
from equivalence.verdict.faults.edits import canonical
from equivalence.verdict.locate.seen import parting
from equivalence.verdict.prove import prove_shapes
from equivalence.verdict.verdict import Verdict
from equivalence.verdict.witness import bounded, witness_input

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor, nn

SMALL = BlockSpec(in_channels=8, cardinality=4, width=2)
SHAPE = (2, 8, 5, 5)
DEVIATIONS = tuple(field.name for field in dataclasses.fields(Deviations))
PAIRS = (("A", "B"), ("A", "C"), ("B", "C"))


@dataclasses.dataclass(frozen=True)
class Judged:
    """The verdicts with some deviations on.

    Attributes:
        on: names of the deviations that are on.
        verdicts: one for each of `PAIRS`.
        reasons: a proof or a witness for each.
    """

    on: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    reasons: tuple[str, ...]

    @property
    def equivalent(self) -> bool:
        """Whether all three structures are one function."""
        return all(verdict is Verdict.EQUIVALENT for verdict in self.verdicts)


@dataclasses.dataclass(frozen=True)
class Story:
    """The notebook, explained.

    Attributes:
        published: with all deviations on.
        without: with one deviation off, by its name.
        alone: with one deviation on and all others off, by its name.
        least: every smallest set of deviations that has to be switched off.
        twin: the verdict on A with independent branches against its grouped twin, and the reason.
    """

    published: Judged
    without: dict[str, Judged]
    alone: dict[str, Judged]
    least: tuple[tuple[str, ...], ...]
    twin: tuple[Verdict, str]


def explain(seed: int = 0) -> Story:
    """Judge the structures as published, with each deviation off or alone, and find the least repair.

    Args:
        seed: of weights, inputs and proofs.
    """

    def judged(deviations: Deviations) -> Judged:
        return _judged(deviations, seed)

    return Story(
        published=judged(NOTEBOOK),
        without={name: judged(dataclasses.replace(NOTEBOOK, **{name: False})) for name in DEVIATIONS},
        alone={name: judged(dataclasses.replace(PAPER, **{name: True})) for name in DEVIATIONS},
        least=tuple(_least(judged)),
        twin=_twin(seed),
    )


def _least(judged: Callable[[Deviations], Judged]) -> Iterator[tuple[str, ...]]:
    """Subsets by size, until one size has a repair."""
    for size in range(len(DEVIATIONS) + 1):
        found = False
        for off in itertools.combinations(DEVIATIONS, size):
            if judged(dataclasses.replace(NOTEBOOK, **dict.fromkeys(off, False))).equivalent:
                found = True
                yield off
        if found:
            return


def _judged(deviations: Deviations, seed: int) -> Judged:
    built = structures(deviations, seed)
    said = [_verdict(built[left], built[right], seed) for left, right in PAIRS]
    on = tuple(name for name, value in dataclasses.asdict(deviations).items() if value)
    return Judged(on, tuple(v for v, _ in said), tuple(r for _, r in said))


def structures(deviations: Deviations, seed: int) -> dict[str, nn.Module]:
    """A, B and C with one set of independent weights, as if trained.

    >>> sorted(structures(PAPER, seed=0))
    ['A', 'B', 'C']

    Args:
        deviations: those of the notebook that are on.
        seed: of the weights.
    """
    weights = _weights(deviations, seed)
    size = SMALL.in_channels, SMALL.width, SMALL.cardinality
    built: dict[str, nn.Module] = {
        "A": BottleneckA(*size, deviations=deviations),
        "B": BottleneckB(*size, deviations=deviations),
        "C": BottleneckC(size[0], SMALL.hidden_channels, size[2], deviations=deviations),
    }
    for module in built.values():
        module.load_state_dict(_placed(module, weights))
        module.eval()
    return built


def _twin(seed: int) -> tuple[Verdict, str]:
    independent = dataclasses.replace(NOTEBOOK, shared_branch=False, inplace_identity=False)
    twin = BottleneckATwin(SMALL.in_channels, SMALL.width, SMALL.cardinality).eval()
    twin.load_state_dict(_placed(twin, _weights(independent, seed)))
    return _verdict(structures(independent, seed)["A"], twin, seed)


def _weights(deviations: Deviations, seed: int) -> dict[str, Tensor]:
    """Canonical tensors of the block that the structures are meant to be."""
    spec = dataclasses.replace(SMALL, bias=(False, deviations.transform_bias, False))
    with random_state():
        seed_everything(seed)
        return canonical(as_if_trained(PerBranch(spec), seed))  # type: ignore[arg-type]  # returns what it was given


def _verdict(left: nn.Module, right: nn.Module, seed: int) -> tuple[Verdict, str]:
    """A proof of equal outputs, or a witness; gradients are left out, for A overwrites what they need."""
    proof = prove_shapes(left, right, (SHAPE,), "eval", "given", gradients=False, seed=seed)
    if proof:
        return Verdict.EQUIVALENT, str(proof)
    for pattern in ("normal × 1", "normal × 1000", "positive", "negative"):
        x = witness_input(pattern, SHAPE, torch.float32, seed)
        rounding = Rounding(torch.float64, native=torch.float32)
        sides = [bounded(side, x, rounding, "eval", seed, gradients=False) for side in (left, right)]
        if found := parting(*({OUTPUTS: side[OUTPUTS]} for side in sides)):
            return Verdict.DIFFERENT, f"{found}; input {pattern} of shape {SHAPE}"
    return Verdict.UNDECIDED, str(proof)


def _placed(module: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The canonical tensors under the notebook's names."""
    expand, cardinality = weights["expand.weight"], SMALL.cardinality
    state: dict[str, Tensor] = {}

    def unit(path: str, stage: str, arrange: Callable[[Tensor], Tensor]) -> None:
        """A SepConv: convolution and norm of a stage."""
        for name, tensor in weights.items():
            if name.startswith(f"{stage}."):
                part, what = name.removeprefix(f"{stage}.").split(".")
                place = f"{path}.conv.{('conv', 'norm').index(part)}.{what}"
                state[place] = arrange(tensor) if tensor.dim() else tensor

    def last_norm(path: str, copies: int = 1) -> None:
        for name, tensor in weights.items():
            if name.startswith("norm."):
                state[f"{path}.{name.removeprefix('norm.')}"] = tensor.repeat(copies) if tensor.dim() else tensor

    if isinstance(module, (BottleneckC, BottleneckATwin)):
        for position, stage in enumerate(("reduce", "transform")):
            unit(f"branch1.{position}", stage, lambda t: t.flatten(0, 1))
        is_twin = isinstance(module, BottleneckATwin)
        state["branch1.2.conv.0.weight"] = expand.flatten(0, 1) if is_twin else _concatenated(expand)
        last_norm("branch1.2.conv.1", cardinality if is_twin else 1)
        return state
    deviations: Any = module.deviations
    paths = ["branch1"] if deviations.shared_branch else [f"branches.{i}" for i in range(cardinality)]
    for branch, path in enumerate(paths):
        for position, stage in enumerate(("reduce", "transform")):
            unit(f"{path}.{position}", stage, lambda t, own=branch: t[own])  # type: ignore[misc]  # bound now
        if isinstance(module, BottleneckA) and deviations.norm_in_branches:
            state[f"{path}.2.conv.0.weight"] = expand[branch]
            last_norm(f"{path}.2.conv.1")
        elif isinstance(module, BottleneckA):
            state[f"{path}.2.weight"] = expand[branch]
    if isinstance(module, BottleneckB):
        state["conv.0.conv.0.weight"] = _concatenated(expand)
        last_norm("conv.0.conv.1")
    elif not deviations.norm_in_branches:
        last_norm("norm")
    return state


def _concatenated(expand: Tensor) -> Tensor:
    whole: Tensor = rearrange(expand, "c o i ... -> o (c i) ...")
    return whole
