"""Everything that can be seen of a block in one run, stage by stage, every element with its bound.

Guarantee: `parting` names a quantity only if two elements are farther apart than the bounds on both sides explain, so
no rounding is ever taken for a difference; quantities come in the order in which a block computes them, so the first
that parts is where the difference starts.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any

import torch

from equivalence.arithmetic.rounding import Rounding, RoundingTensor
from equivalence.blocks.forms import Block
from equivalence.verdict.experiments import AFTER_SGD, AFTER_TRAINING, INPUT_GRADIENT, OUTPUTS
from equivalence.verdict.witness import bounded
from equivalence.weights.correspondence import ROWS, STAGES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor, nn

    from equivalence.arithmetic.floating import Mode

# The order in which quantities are looked at: forward, then what training leaves, then backward.
_FORWARD = ["reduced", "transformed", "aggregated", "normed", OUTPUTS]
_STATISTICS = [row.name for row in ROWS if "running" in row.name or "tracked" in row.name]
_GRADIENTS = [f"{row.name}.grad" for row in reversed(ROWS)]
ORDER = [*_FORWARD, *_STATISTICS, *_GRADIENTS, INPUT_GRADIENT, AFTER_TRAINING, AFTER_SGD]
_AXES = {row.name: row.axes for row in (*ROWS, *(stage for stage, _ in STAGES))}


@dataclasses.dataclass(frozen=True)
class Parting:
    """The first quantity in which two modules part, and its greatest difference.

    Attributes:
        quantity: a stage such as "reduced", an experiment such as "outputs", or a tensor's name.
        stage: the stage that the quantity belongs to, in the words of a `Fault`.
        index: of the element, in the canonical arrangement.
        branches: those in which the quantity parts, the worst first; none if it belongs to no branch.
        channel: inside the branch, or of the output; None if it has none.
        left, right: both values there, in float64.
        bound: what rounding can explain of their difference.
    """

    quantity: str
    stage: str
    index: tuple[int, ...]
    branches: tuple[int, ...]
    channel: int | None
    left: float
    right: float
    bound: float

    def __str__(self) -> str:
        branch = f", branch {self.branches[0]}" if self.branches else ""
        channel = "" if self.channel is None else f", channel {self.channel}"
        return (
            f"{self.quantity}{branch}{channel}: {self.left:.9g} / {self.right:.9g}, "
            f"{abs(self.left - self.right):.3g} apart where rounding explains {self.bound:.2g}"
        )


def seen(
    module: nn.Module, x: Tensor, dtype: torch.dtype, mode: Mode, seed: int, *, gradients: bool
) -> dict[str, Tensor]:
    """A module's stages, then its experiments, in float64 with bounds.

    Args:
        module: any module; only a form of a block has stages.
        x: `(N, C, H, W)` in float64, representable in dtype.
        dtype: of the modules.
        mode: "eval" or "train".
        seed: of cotangent and later inputs.
        gradients: whether to go backward.

    Raises:
        UnsupportedOperation: if an operation has no rule that bounds its error.
    """
    with _listening(module) as heard:
        results = bounded(module, x, Rounding(torch.float64, native=dtype), mode, seed, gradients=gradients)
    return heard | results


def parting(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> Parting | None:
    """The first quantity of both in which they part, or None."""
    both = [name for name in (*ORDER, *left) if name in left and name in right]
    for name in dict.fromkeys(both):
        if found := _apart(name, left[name], right[name]):
            return found
    alone = [name for name in ORDER if (name in left) != (name in right) and name.endswith((".grad", "gradient"))]
    for name in alone:
        held = left.get(name, right.get(name))
        if isinstance(held, RoundingTensor) and (held.value.abs() > held.bound).any():
            value = float(held.value.abs().max())
            sides = (value, 0.0) if name in left else (0.0, value)
            return Parting(name, stage_of(name), (), (), None, *sides, 0.0)
    return None


def shows(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    """Whether an experiment parts, not only something inside: two forms of one function may differ there."""
    return any(
        (name in left) != (name in right) or (name in left and _apart(name, left[name], right[name]) is not None)
        for name in (OUTPUTS, INPUT_GRADIENT, AFTER_TRAINING, AFTER_SGD)
    )


def stage_of(quantity: str) -> str:
    """The stage that a quantity belongs to, in the words of a `Fault`."""
    if quantity == OUTPUTS:
        return "output"
    if quantity in _STATISTICS or quantity == AFTER_TRAINING:
        return "statistics"
    if quantity.endswith(".grad") or quantity == AFTER_SGD:
        return "parameter gradients"
    return quantity


def _apart(name: str, left: Tensor, right: Tensor) -> Parting | None:
    if left.shape != right.shape:
        return _other_size(name, left, right)
    if not (isinstance(left, RoundingTensor) and isinstance(right, RoundingTensor)):
        if isinstance(left, RoundingTensor) or isinstance(right, RoundingTensor) or torch.equal(left, right):
            return None
        return _described(name, left.double(), right.double(), torch.zeros_like(left, dtype=torch.float64))
    bound = left.bound + right.bound
    return _described(name, left.value, right.value, bound)


def _other_size(name: str, left: Tensor, right: Tensor) -> Parting | None:
    """A stage of other spatial sizes parts; one of other channels may be another way to the same function."""
    axes = _AXES.get(name, "").split()
    leading = axes.index("...") if "..." in axes else 0
    if name not in _FORWARD or left.shape[:leading] != right.shape[:leading]:
        return None
    values = float(left.shape[leading:].numel()), float(right.shape[leading:].numel())
    return Parting(f"{name}, elements per channel", name, (), (), None, *values, 0.0)


def _described(name: str, left: Tensor, right: Tensor, bound: Tensor) -> Parting | None:
    excess = ((left - right).abs() - bound).nan_to_num(-1, -1, -1)
    if not excess.numel() or not (excess > 0).any():
        return None
    axes = _AXES.get(name.removesuffix(".grad"), "n o" if name == OUTPUTS else "").split()
    branches: list[int] = []
    if "c" in axes:
        worst = excess.transpose(0, axes.index("c")).flatten(1).amax(1) if excess.dim() > 1 else excess
        branches = [int(b) for b in worst.argsort(descending=True, stable=True) if worst[b] > 0]
    at = tuple(int(i) for i in torch.unravel_index(excess.argmax(), excess.shape))
    channel = at[axes.index("o")] if "o" in axes and at else None
    values = float(left[at]), float(right[at])
    return Parting(name, stage_of(name), at, tuple(branches), channel, *values, float(bound[at]))


@contextlib.contextmanager
def _listening(module: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Hear what a form's stages are, in the canonical arrangement, the first time that each runs."""
    stages: dict[str, Tensor] = {}
    if not isinstance(module, Block):
        yield stages
        return
    heard: dict[str, dict[str, Tensor]] = {}
    ports: Sequence[tuple[Any, str]] = [(row, port) for row, port in STAGES]
    handles = []
    for row, port in ports:
        for path in row.places[module.form].names(module.spec.cardinality):
            part, ear = module.get_submodule(path), _ear(heard.setdefault(row.name, {}), path)
            hook = part.register_forward_hook if port == "returns" else part.register_forward_pre_hook
            handles.append(hook(ear))
    handles.append(module.norm.register_forward_hook(_ear(heard.setdefault("normed", {}), "norm")))
    try:
        yield stages
    finally:
        for handle in handles:
            handle.remove()
        for row, _ in ports:
            parts = [heard[row.name].get(p) for p in row.places[module.form].names(module.spec.cardinality)]
            whole = [part for part in parts if part is not None]
            if len(whole) == len(parts):
                stages[row.name] = row.gather(module.form, whole, module.spec.cardinality)
        if heard["normed"]:
            stages["normed"] = heard["normed"]["norm"]


def _ear(heard: dict[str, Tensor], path: str) -> Any:
    def listen(_: nn.Module, received: tuple[Tensor, ...], *returned: Tensor) -> None:
        heard.setdefault(path, (returned or received)[0].detach().clone())

    return listen
