"""The check on integers: both modules' own kernels must give *equal* results.

Guarantee: a difference seen here is one of the kernels as they run on this machine, because on
these integers no correct kernel can round (see `arithmetic.lattice`). Which side is off is said by
that side's own result in float64, and between forms of a block by the NumPy reference.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import torch

from equivalence.arithmetic.lattice import (
    SIGNIFICAND,
    Magnitudes,
    NotApplicable,
    TooLarge,
    integer_input,
    integers,
)
from equivalence.arithmetic.location import locating
from equivalence.arithmetic.preserve import as_found
from equivalence.blocks.forms import Block
from equivalence.blocks.reference import reference
from equivalence.verdict.experiments import OUTPUTS, Probe, run
from equivalence.weights.correspondence import gather

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from equivalence.verdict.prove import Shape

# Sparser data as long as sums do not fit; below the last too little is left to see anything.
_DENSITIES = (1.0, 0.5, 0.3, 0.2, 0.12, 0.08, 0.05)
# Below this share of results that depend on the weights, agreement says nothing.
_VACUOUS = 0.05


@dataclasses.dataclass(frozen=True)
class OnIntegers:
    """What both modules gave on integers.

    Attributes:
        dtype: of the modules.
        largest: greatest sum of absolute values that may have occurred.
        weights: the integers of the left and the right module, by name.
        results: of the left and the right module by experiment, in their dtype.
        probe: the integers that both were given.
        telling: share of outputs that change with the weights.
    """

    dtype: torch.dtype
    largest: float
    weights: list[dict[str, Tensor]]
    results: list[dict[str, Tensor]]
    probe: Probe
    telling: float

    @property
    def vacuous(self) -> bool:
        """Whether too few outputs depend on the weights."""
        return self.telling < _VACUOUS

    @property
    def description(self) -> str:
        """On what the modules agreed, with the figures that make it mean something."""
        dtype = str(self.dtype).removeprefix("torch.")
        bits = math.log2(max(self.largest, 1.0))
        said = f"{dtype} on integers whose sums stay below 2^{math.ceil(bits)}"
        share = f"{self.telling:.0%} of outputs depend on the weights"
        return f"{said}, {share}{': vacuous' if self.vacuous else ''}"

    def differing(self) -> list[str]:
        """The experiments whose results are not equal in every element."""
        left, right = self.results
        return [
            name
            for name in {**left, **right}
            if not (name in left and name in right and torch.equal(left[name], right[name].to(left[name].device)))
        ]


def run_on_integers(left: nn.Module, right: nn.Module, shape: Shape, dtype: torch.dtype, seed: int) -> OnIntegers:
    """Both modules on corresponding integers, in evaluation mode.

    Raises:
        NotApplicable: if no integers fit, or an operation is not exact on them.
    """
    sides = (left, right)
    for density in _DENSITIES:
        weights = [integers(module, density, seed) for module in sides]
        probe = _integer_probe(left, weights[0], shape, density, seed)
        try:
            largest = max(map(_magnitude, sides, weights, [probe] * 2, [dtype] * 2))
        except TooLarge as error:
            reason = str(error)
            continue
        results = [_results(m, w, probe) for m, w in zip(sides, weights, strict=True)]
        other = _results(left, integers(left, density, seed + 1), probe, gradients=False)
        telling = float((results[0][OUTPUTS] != other[OUTPUTS]).double().mean())
        return OnIntegers(dtype, largest, weights, results, probe, telling)
    raise NotApplicable(f"even sparse integers do not fit {dtype}: {reason}")


def _integer_probe(module: nn.Module, weights: Mapping[str, Tensor], shape: Shape, density: float, seed: int) -> Probe:
    generator = torch.Generator().manual_seed(seed)
    x = integer_input(shape, density, generator)
    probe = Probe(x=x, later=x, cotangent=torch.zeros_like)
    output = _results(module, weights, probe, gradients=False)[OUTPUTS]
    # Drawn here, since nothing may be drawn while magnitudes are watched.
    cotangent = integer_input(tuple(output.shape), density, generator)
    return dataclasses.replace(probe, cotangent=cotangent.to)


def _magnitude(module: nn.Module, weights: Mapping[str, Tensor], probe: Probe, dtype: torch.dtype) -> float:
    """The greatest sum of absolute values, if all of them fit the dtype's significand."""
    absolute = {n: t.cpu().double().abs() if t.is_floating_point() else t for n, t in weights.items()}
    x = probe.x.abs()
    cotangent = probe.cotangent(x).abs()
    bound = Probe(x=x, later=x, cotangent=lambda _: cotangent)
    original = getattr(module, "_orig_mod", module)
    magnitudes = Magnitudes(2.0 ** SIGNIFICAND[dtype])
    with as_found(original), locating(original), magnitudes:
        run(original, absolute, bound, "eval")
    return magnitudes.largest


def _results(
    module: nn.Module, weights: Mapping[str, Tensor], probe: Probe, *, gradients: bool = True
) -> dict[str, Tensor]:
    """What the module's own kernels make of the integers."""
    example = next((t for t in weights.values() if t.is_floating_point()), probe.x)
    own = dataclasses.replace(probe, x=probe.x.to(example), later=probe.later.to(example))
    with as_found(module):
        return run(module, weights, own, "eval", gradients=gradients)


def side_that_is_off(left: nn.Module, right: nn.Module, found: OnIntegers, experiment: str) -> str:
    """Which side's kernel is wrong: between forms the NumPy reference says it, else float64."""
    truth = _reference(left, right, found) if experiment == OUTPUTS else None
    off = []
    for side, module, weights, results in zip(
        ("left", "right"), (left, right), found.weights, found.results, strict=True
    ):
        if truth is None:
            wide = {n: t.double() if t.is_floating_point() else t for n, t in weights.items()}
            expected = _results(module, wide, found.probe)[experiment]
        else:
            expected = truth
        if not torch.equal(results[experiment].cpu().double(), expected.cpu()):
            off.append(side)
    judge = "float64" if truth is None else "the NumPy reference"
    return f"{' and '.join(off) or 'neither side'} differs from {judge}"


def _reference(left: nn.Module, right: nn.Module, found: OnIntegers) -> Tensor | None:
    """The output by the NumPy reference, over exact numbers."""
    if not (isinstance(left, Block) and isinstance(right, Block)):
        return None
    weights = gather(left.form, found.weights[0], left.spec.cardinality)
    arrays = {name: tensor.cpu().double().numpy() for name, tensor in weights.items()}
    output = reference(left.spec, arrays, found.probe.x.numpy()).output
    # The reference keeps the eps that is lost in floats: far less than the distance of integers.
    return torch.from_numpy(output).round()
