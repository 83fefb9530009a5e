"""The check on integers: both modules' own kernels must give *equal* results.

Guarantee: a difference seen here is one of the kernels as they run on this machine, because on
these integers no correct kernel can round (see `arithmetic.lattice`). Which side is off is said by
that side's own result in float64, and between forms of a block by the NumPy reference.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TYPE_CHECKING

import torch

from equivalence.arithmetic.lattice import SIGNIFICAND, Magnitudes, NotApplicable, integer_array, integers
from equivalence.arithmetic.location import locating
from equivalence.arithmetic.preserve import as_found
from equivalence.blocks.forms import Block
from equivalence.blocks.reference import reference
from equivalence.verdict.experiments import OUTPUTS, Probe, paired, run
from equivalence.verdict.modules import original
from equivalence.weights.correspondence import gather

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn

    from equivalence.verdict.memory import Memory
    from equivalence.verdict.modules import Shape

    # Takes one module's tensors by name, gives those of another.
    Moved = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]

# Sparser data as long as sums do not fit; below this too little is left to see anything.
_SPARSEST = 0.02
# Below this share of results that depend on the weights, agreement says nothing.
_VACUOUS = 0.05


@dataclasses.dataclass(frozen=True)
class Integers:
    """One module's integer weights, and what both modules are given.

    Attributes:
        weights: parameters and buffers by name, in the module's dtype.
        probe: input and cotangent, in float64.
        largest: greatest sum of absolute values that may occur.
    """

    weights: dict[str, Tensor]
    probe: Probe
    largest: float


@dataclasses.dataclass(frozen=True)
class OnIntegers:
    """What both modules gave on integers.

    Attributes:
        dtype: of the modules.
        given: the integers of the left and the right module.
        results: of the left and the right module by experiment, in their dtype.
        telling: share of outputs that change with the weights.
    """

    dtype: torch.dtype
    given: tuple[Integers, Integers]
    results: tuple[dict[str, Tensor], dict[str, Tensor]]
    telling: float

    @property
    def vacuous(self) -> bool:
        """Whether too few outputs depend on the weights."""
        return self.telling < _VACUOUS

    @property
    def description(self) -> str:
        """On what the modules agreed, with the figures that make it mean something."""
        dtype = str(self.dtype).removeprefix("torch.")
        bits = math.log2(max(1.0, *(side.largest for side in self.given)))
        said = f"{dtype} on integers whose sums stay below 2^{math.ceil(bits)}"
        share = f"{self.telling:.0%} of outputs depend on the weights"
        return f"{said}, {share}{': vacuous' if self.vacuous else ''}"

    def differing(self) -> list[str]:
        """The experiments whose results are not equal in every element."""
        return [
            name
            for name, (left, right) in paired(*self.results).items()
            if left is None or right is None or not _equal(left, right)
        ]


def run_on_integers(
    left: nn.Module,
    right: nn.Module,
    shape: Shape,
    dtype: torch.dtype,
    seed: int,
    memory: Memory,
    moved: Moved | None = None,
) -> OnIntegers:
    """Both modules on corresponding integers, in evaluation mode.

    Args:
        left, right: any two modules.
        shape: `(N, C, H, W)` of their input.
        dtype: of the modules.
        seed: of the integers.
        memory: shared by checks of the same modules.
        moved: moves the left module's tensors into the right one's, if that is known; then deep
            networks have integers that fit, too.

    Raises:
        NotApplicable: if no integers fit, or an operation is not exact on them.
    """
    sides, limit, density = (left, right), 2.0 ** SIGNIFICAND[dtype], 1.0
    while density > _SPARSEST:
        given: list[Integers] = []
        for module in sides:
            weights = integers(left, density, seed, per_output=True) if moved else None
            if weights and moved and given:
                weights = moved(weights)
            given.append(
                memory.recall(
                    ("integers", shape, density, seed),
                    functools.partial(_integers, module, shape, density, seed, weights),
                    module,
                    moved,
                )
            )
        largest = max(side.largest for side in given)
        if largest < limit:
            results = [
                memory.recall(
                    ("on integers", shape, density, seed),
                    functools.partial(_results, module, side.weights, side.probe),
                    module,
                    moved,
                )
                for module, side in zip(sides, given, strict=True)
            ]
            reseeded = integers(left, density, seed + 1, per_output=moved is not None)
            other = _results(left, reseeded, given[0].probe, gradients=False)
            telling = float((results[0][OUTPUTS] != other[OUTPUTS]).double().mean())
            return OnIntegers(dtype, (given[0], given[1]), (results[0], results[1]), telling)
        # Three convolutions and the input: sums shrink with the fourth power of the density.
        density *= max(0.3, min(0.9, 0.8 * (limit / largest) ** 0.25))
    raise NotApplicable(f"even sparse integers do not fit {dtype}: sums up to {largest:.3g}")


def _integers(
    module: nn.Module, shape: Shape, density: float, seed: int, weights: dict[str, Tensor] | None = None
) -> Integers:
    """Integers for a module, and the greatest sum of absolute values that they can lead to."""
    weights = weights or integers(module, density, seed)
    x = torch.from_numpy(integer_array(shape, density, seed))

    def cotangent(output: Tensor) -> Tensor:
        return torch.from_numpy(integer_array(tuple(output.shape), density, seed + 1)).to(output)

    absolute = {n: t.cpu().double().abs() if t.is_floating_point() else t for n, t in weights.items()}

    def magnitude(output: Tensor) -> Tensor:
        # Made by NumPy alone, because torch's operations are watched here.
        return torch.from_numpy(abs(integer_array(tuple(output.shape), density, seed + 1)))

    bound = Probe(x=x.abs(), later=x, cotangent=magnitude)
    own = original(module)
    magnitudes = Magnitudes()
    with as_found(own), locating(own), magnitudes:
        run(own, absolute, bound, "eval")
    return Integers(weights, Probe(x=x, later=x, cotangent=cotangent), magnitudes.largest)


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
    for side, module, given, results in zip(("left", "right"), (left, right), found.given, found.results, strict=True):
        expected = truth
        if expected is None:
            wide = {n: t.double() if t.is_floating_point() else t for n, t in given.weights.items()}
            expected = _results(module, wide, given.probe)[experiment]
        if not _equal(results[experiment].double(), expected):
            off.append(side)
    judge = "float64" if truth is None else "the NumPy reference"
    if not off:
        return f"neither side differs from {judge}"
    return f"{' and '.join(off)} differ{'s' if len(off) == 1 else ''} from {judge}"


def _reference(left: nn.Module, right: nn.Module, found: OnIntegers) -> Tensor | None:
    """The output by the NumPy reference."""
    if not (isinstance(left, Block) and isinstance(right, Block)):
        return None
    weights = gather(left.form, found.given[0].weights, left.spec.cardinality)
    arrays = {name: tensor.cpu().double().numpy() for name, tensor in weights.items()}
    output = reference(left.spec, arrays, found.given[0].probe.x.numpy()).output
    # The reference keeps the eps that is lost in floats: far less than the distance of integers.
    return torch.from_numpy(output).round()


def _equal(left: Tensor, right: Tensor) -> bool:
    return left.shape == right.shape and torch.equal(left.cpu(), right.cpu())
