"""The search for an input on which two modules really differ.

Guarantee: a `Witness` is no rounding. Both modules are run in float64 with a rigorous bound on
every element's error (see `arithmetic.rounding`); the witness is an element whose two values are
farther apart than both bounds together, so the exact results differ there. Finding none proves
nothing. Gradients are only judged on inputs without zeros, because the derivative exactly at a kink
is a convention.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from equivalence.arithmetic.errors import UnsupportedOperation
from equivalence.arithmetic.floating import cotangent_of
from equivalence.arithmetic.preserve import as_found
from equivalence.arithmetic.rounding import Rounding, RoundingTensor
from equivalence.verdict.experiments import (
    AFTER_TRAINING,
    OUTPUTS,
    SECOND_CALL,
    Probe,
    comparable,
    correspond,
    paired,
    run,
)
from equivalence.verdict.modules import base_dtype, original, tensors_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from torch import Tensor, nn

    from equivalence.arithmetic.floating import Mode
    from equivalence.verdict.modules import Shape


@dataclasses.dataclass(frozen=True)
class Witness:
    """Where two modules differ beyond what rounding can explain.

    Attributes:
        experiment: what was compared, such as "outputs".
        shape: of the input, `(N, C, H, W)`.
        pattern: which input it was; with the seed, `witness_input` makes it again.
        index: of the element.
        left, right: both values there, in float64.
        bound: what rounding can explain of their difference, absolute.
    """

    experiment: str
    shape: Shape
    pattern: str
    index: tuple[int, ...]
    left: float
    right: float
    bound: float

    def __str__(self) -> str:
        return (
            f"{self.experiment}{list(self.index)}: {self.left:.9g} / {self.right:.9g}, "
            f"{abs(self.left - self.right):.3g} apart where rounding explains {self.bound:.2g}; "
            f"input {self.pattern} of shape {self.shape}"
        )


@dataclasses.dataclass(frozen=True)
class _Pattern:
    """A kind of input: its name, how it is made of normal numbers, and whether it has zeros."""

    name: str
    make: Callable[[Tensor], Tensor]
    zeros: bool = False


def _one_channel(normal: Tensor) -> Tensor:
    kept = torch.zeros_like(normal)
    kept[:, :1] = normal[:, :1]
    return kept


def _alternating(normal: Tensor) -> Tensor:
    signs = torch.arange(normal.numel()).view(normal.shape) % 2 * 2 - 1
    return normal.abs() * signs


_SCALES = (1.0, 1e3, 1e-3, 1e8, 1e-8, 1e18, 1e-18)
_PATTERNS = (
    *(_Pattern(f"normal × {scale:g}", functools.partial(torch.mul, other=scale)) for scale in _SCALES),
    _Pattern("positive", torch.abs),
    _Pattern("negative", lambda n: -n.abs()),
    _Pattern("alternating", _alternating),
    _Pattern("constant", torch.ones_like),
    _Pattern("one channel", _one_channel, zeros=True),
    _Pattern("sparse", lambda n: n * (n.abs() > 1.5), zeros=True),
    _Pattern("zero", torch.zeros_like, zeros=True),
)


def witness_input(pattern: str, shape: Shape, dtype: torch.dtype, seed: int) -> Tensor:
    """The input of a witness, in float64 but representable in the modules' dtype.

    >>> witness_input("positive", (1, 2, 3, 3), torch.float32, seed=0).shape
    torch.Size([1, 2, 3, 3])

    Args:
        pattern: as a `Witness` names it.
        shape: `(N, C, H, W)`.
        dtype: of the modules.
        seed: of the check.
    """
    (made,) = (p for p in _PATTERNS if p.name == pattern)
    generator = torch.Generator().manual_seed(seed)
    return made.make(torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype).double()


def find_witness(
    left: nn.Module,
    right: nn.Module,
    shapes: Sequence[Shape],
    mode: Mode,
    seed: int,
    experiments: Collection[str] | None = None,
) -> Witness | None:
    """The first witness among inputs of many scales, signs and structures, or None.

    Args:
        left, right: any two modules; they are left as they were found.
        shapes: of the inputs that are tried, `(N, C, H, W)`.
        mode: "eval" or "train".
        seed: of the inputs.
        experiments: those that are compared; all by default.

    Raises:
        UnsupportedOperation: if an operation has no rule that bounds its error.
    """
    dtype = base_dtype(left, right)
    by_name = correspond(left, right)
    for pattern in _PATTERNS:
        for shape in shapes:
            x = witness_input(pattern.name, shape, dtype, seed)
            if not x.isfinite().all():
                continue
            with Kinks() as kinks:
                found = [bounded(m, x, Rounding(torch.float64, native=dtype), mode, seed) for m in (left, right)]
            sides = comparable(*found, by_name=by_name)
            for name, index, values, bound in _apart(*sides, gradients=not (pattern.zeros or kinks.met)):
                if experiments is None or name in experiments:
                    return Witness(name, shape, pattern.name, index, *values, bound)
    return None


def bounded(
    module: nn.Module, x: Tensor, rounding: Rounding, mode: Mode, seed: int, *, gradients: bool = True
) -> dict[str, Tensor]:
    """All experiments of one module, every element with its bound."""
    generator = torch.Generator().manual_seed(seed + 1)
    later = torch.randn(x.shape, generator=generator, dtype=torch.float64)

    def cotangent(output: Tensor) -> Tensor:
        like = torch.empty(output.shape, dtype=output.dtype)
        return rounding.embed(cotangent_of(like, seed))

    dtype = rounding.native.dtype
    probe = Probe(rounding.embed(x.to(dtype)), rounding.embed(later.to(dtype)), cotangent)
    module = original(module)
    with as_found(module):
        tensors = rounding.embed_all(tensors_of(module))
        try:
            return run(module, tensors, probe, mode, gradients=gradients)
        except UnsupportedOperation:
            raise
        except Exception as error:
            said = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise UnsupportedOperation(f"running {type(module).__name__}", said) from error


class Kinks(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's class hook is untyped
    """While active, `met` says whether something piecewise was asked for exactly where its pieces meet."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # likewise
        self.met = False

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__.rstrip("_")
        if name in _PIECEWISE and args and isinstance(args[0], RoundingTensor):
            ends = [a for a in args[1:] if a is not None] if name in _COMPARING else [0.0]
            for end in ends:
                self.met |= bool((args[0].value == (end.value if isinstance(end, RoundingTensor) else end)).any())
        return func(*args, **(kwargs or {}))


_COMPARING = {"gt", "ge", "lt", "le", "eq", "ne", "maximum", "minimum", "clamp", "clamp_min", "clamp_max", "hardtanh"}
_PIECEWISE = _COMPARING | {"relu", "leaky_relu", "_prelu_kernel", "abs", "sgn", "sign"}
_WITHOUT_GRADIENTS = (OUTPUTS, SECOND_CALL, AFTER_TRAINING)


def _apart(
    left: dict[str, Tensor], right: dict[str, Tensor], *, gradients: bool
) -> Iterator[tuple[str, tuple[int, ...], tuple[float, float], float]]:
    """Elements that are farther apart than their bounds explain, the worst of each experiment."""
    for name, (a, b) in paired(left, right).items():
        if not gradients and name not in _WITHOUT_GRADIENTS:
            continue
        if not (isinstance(a, RoundingTensor) and isinstance(b, RoundingTensor)):
            continue
        if a.shape != b.shape:
            continue  # tensors of one name in blocks of another width
        bound = a.bound + b.bound
        excess = (a.value - b.value).abs() - bound
        excess = excess.nan_to_num(-1, -1, -1)
        if excess.numel() and (excess > 0).any():
            at = torch.unravel_index(excess.argmax(), excess.shape)
            index = tuple(int(i) for i in at)
            yield name, index, (float(a.value[index]), float(b.value[index])), float(bound[index])
