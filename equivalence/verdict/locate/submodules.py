"""Where two arbitrary modules part: the first pair of submodules with equal inputs and unequal outputs.

Guarantee: "equal" means no farther apart than rounding explains, "unequal" means farther, both rigorously. Submodules
are paired by the order in which they run and by what they receive, never by name.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch

from equivalence.arithmetic.rounding import Rounding, RoundingTensor
from equivalence.verdict.experiments import OUTPUTS
from equivalence.verdict.locate.place import Place
from equivalence.verdict.witness import bounded

if TYPE_CHECKING:
    from torch import Tensor, nn

    from equivalence.arithmetic.floating import Mode


@dataclasses.dataclass(frozen=True)
class _Call:
    """One run of a submodule that has no submodules."""

    path: str
    kind: str
    received: Tensor
    returned: Tensor


def first_submodule(
    left: nn.Module, right: nn.Module, x: Tensor, dtype: torch.dtype, mode: Mode, seed: int
) -> Place | None:
    """The first submodules that part; the modules themselves if all their parts agree."""
    ours, our_output = _calls(left, x, dtype, mode, seed)
    theirs, their_output = _calls(right, x, dtype, mode, seed)
    waiting = list(theirs)
    for call in ours:
        fed_alike = [other for other in waiting if _agree(call.received, other.received)]
        if any(_agree(call.returned, other.returned) for other in fed_alike):
            continue
        same_kind = [other for other in fed_alike if other.returned.shape == call.returned.shape]
        if not same_kind:
            continue
        other = min(same_kind, key=lambda o: (o.kind != call.kind, o.path != call.path))
        statement = (
            f"{call.path} ({call.kind}) / {other.path} ({other.kind}): equal inputs, "
            f"{_difference(call.returned, other.returned)}"
        )
        return Place(call.path, statement)
    if _agree(our_output, their_output):
        return None
    return Place("output", f"output, in no submodule by itself: {_difference(our_output, their_output)}")


def _calls(module: nn.Module, x: Tensor, dtype: torch.dtype, mode: Mode, seed: int) -> tuple[list[_Call], Tensor]:
    calls: list[_Call] = []
    handles = []
    for path, part in module.named_modules():
        if path and next(part.children(), None) is None:
            handles.append(part.register_forward_hook(_ear(calls, path)))
    try:
        rounding = Rounding(x.dtype, native=dtype)
        output = bounded(module, x, rounding, mode, seed, gradients=False)[OUTPUTS]
    finally:
        for handle in handles:
            handle.remove()
    return calls, output


def _ear(calls: list[_Call], path: str) -> Any:
    def listen(module: nn.Module, received: tuple[Any, ...], returned: Any) -> None:
        if received and isinstance(received[0], RoundingTensor) and isinstance(returned, RoundingTensor):
            copies = received[0].detach().clone(), returned.detach().clone()
            calls.append(_Call(path, type(module).__name__, *copies))

    return listen


def _agree(left: Tensor, right: Tensor) -> bool:
    if not (isinstance(left, RoundingTensor) and isinstance(right, RoundingTensor)) or left.shape != right.shape:
        return False
    return bool(((left.value - right.value).abs() <= left.bound + right.bound).all())


def _difference(left: Tensor, right: Tensor) -> str:
    if not (isinstance(left, RoundingTensor) and isinstance(right, RoundingTensor)) or left.shape != right.shape:
        return f"output shape {tuple(left.shape)} against {tuple(right.shape)}"
    apart = (left.value - right.value).abs()
    at = [int(i) for i in torch.unravel_index(apart.argmax(), apart.shape)]
    values = float(left.value[tuple(at)]), float(right.value[tuple(at)])
    return f"outputs{at} {values[0]:.9g} / {values[1]:.9g}"
