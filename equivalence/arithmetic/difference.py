"""How far two tensors are apart, in the figures that people look at.

Guarantee: nothing is swallowed. Shapes and dtypes that differ are said; NaN and infinity are
counted and compared (NaN equals NaN and infinity equals itself, anything else next to them is
infinitely far); comparing no elements is an error. The greatest difference is found in the
tensors' own dtype and then restated in float64, so it is the exact difference of its two values.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Quantity:
    """What two modules gave for one quantity, and how far apart that is.

    Attributes:
        name: the quantity, such as "output", "reduced" or "transform.conv.weight.grad".
        compared: number of elements.
        differing: number of elements that are not equal.
        max_abs_diff: greatest |left − right|, absolute.
        index: where it is.
        left, right: both values there; a complex number's parts are elements by themselves.
        max_rel_diff: greatest |left − right| / max(|left|, |right|).
        max_ulp_diff: greatest number of floats of this dtype between the two.
        rms: root mean square of left − right, absolute.
        largest: greatest finite |value| on either side, absolute.
        non_finite: how many elements are NaN or infinite, left and right.
        problem: why nothing could be subtracted (shapes, dtypes), or None.
        bound: what rounding alone can explain, absolute, where it is known.
    """

    name: str
    compared: int = 0
    differing: int = 0
    max_abs_diff: float = math.inf
    index: tuple[int, ...] = ()
    left: float = math.nan
    right: float = math.nan
    max_rel_diff: float = math.inf
    max_ulp_diff: int | None = None
    rms: float = math.inf
    largest: float = math.nan
    non_finite: tuple[int, int] = (0, 0)
    problem: str | None = None
    bound: float | None = None

    @property
    def equal(self) -> bool:
        """Whether every element is equal."""
        return self.problem is None and self.differing == 0


def measure(name: str, left: Tensor, right: Tensor) -> Quantity:
    """Compare two tensors element by element.

    >>> q = measure("output", torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5]))
    >>> q.max_abs_diff, q.index, q.left, q.right, q.differing
    (0.5, (1,), 2.0, 2.5, 1)

    Args:
        name: what the tensors are.
        left, right: of any shape and dtype; they are compared if these are the same.

    Raises:
        ValueError: if there are no elements to compare.
    """
    left, right = left.detach(), right.detach().to(left.device)
    if left.shape != right.shape:
        return Quantity(name, problem=f"shape {tuple(left.shape)} against {tuple(right.shape)}")
    if left.dtype != right.dtype:
        return Quantity(name, problem=f"dtype {left.dtype} against {right.dtype}")
    if left.numel() == 0:
        raise ValueError(f"{name} has shape {tuple(left.shape)}: no elements, nothing compared")
    if left.is_complex():
        left, right = torch.view_as_real(left), torch.view_as_real(right)
    shape = left.shape
    left, right = left.reshape(-1), right.reshape(-1)
    wide = (_wide(left), _wide(right))
    difference = _floating((wide[0] - wide[1]).abs_())
    rms = _rms(difference)
    non_finite = (0, 0)
    if not math.isfinite(rms):
        non_finite = (_count_non_finite(left), _count_non_finite(right))
        wide = (wide[0].double(), wide[1].double())  # where float32 overflows, float64 does not
        difference = _infinitely_far(*wide)
        rms = _rms(difference)
    scale = _floating(torch.maximum(wide[0].abs(), wide[1].abs()))
    relative = (difference / scale).nan_to_num_(0, math.inf)
    if any(non_finite):
        relative.masked_fill_(difference.isinf(), math.inf)
    at = int(difference.argmax())
    here, there = wide[0][at].item(), wide[1][at].item()
    farthest = float(difference[at])
    return Quantity(
        name,
        compared=left.numel(),
        differing=int(torch.count_nonzero(difference)),
        max_abs_diff=float(abs(here - there)) if 0 < farthest < math.inf else farthest,
        index=tuple(int(i) for i in torch.unravel_index(torch.tensor(at), shape)),
        left=here,
        right=there,
        max_rel_diff=float(relative.max()),
        max_ulp_diff=_max_ulp(*(_finite(left, right) if any(non_finite) else (left, right))),
        rms=rms,
        largest=float((scale.nan_to_num(0, 0, 0) if any(non_finite) else scale).max()),
        non_finite=non_finite,
    )


def _wide(tensor: Tensor) -> Tensor:
    """The dtype in which differences are formed: the tensor's own unless that is a narrow one."""
    if tensor.dtype in (torch.float32, torch.float64):
        return tensor
    return tensor.double() if tensor.is_floating_point() else tensor.long()


def _floating(tensor: Tensor) -> Tensor:
    """Integers, subtracted exactly, go on as float64."""
    return tensor if tensor.is_floating_point() else tensor.double()


def _rms(difference: Tensor) -> float:
    norm = float(torch.linalg.vector_norm(difference, dtype=torch.float64))
    return norm / math.sqrt(difference.numel())


def _count_non_finite(tensor: Tensor) -> int:
    return tensor.numel() - int(torch.isfinite(tensor).sum())


def _finite(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    both = left.isfinite() & right.isfinite()
    return left[both], right[both]


def _infinitely_far(left: Tensor, right: Tensor) -> Tensor:
    """Differences where not all is finite: equals are at 0, unequals next to NaN at infinity."""
    equal = (left == right) | (left.isnan() & right.isnan())
    return (left - right).abs_().nan_to_num_(math.inf, math.inf).masked_fill_(equal, 0)


def _max_ulp(left: Tensor, right: Tensor) -> int | None:
    """Floats between left and right: as integers, floats of one sign are in their own order."""
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}.get(left.element_size())
    if integers is None or not left.is_floating_point() or left.numel() == 0:
        return None
    a, b = left.view(integers), right.view(integers)
    opposite = (a ^ b) < 0
    if not opposite.any():
        return int((a - b).abs_().max())
    within = int((a - b).abs_().masked_fill_(opposite, 0).max())
    # From one sign to the other the way leads through zero. The sum may wrap around to a negative
    # number; with the sign bit flipped, sums are in the order that they have without a sign.
    to_zero = [t[opposite] & torch.iinfo(integers).max for t in (a, b)]
    farthest = int(((to_zero[0] + to_zero[1]) ^ torch.iinfo(integers).min).argmax())
    return max(within, int(to_zero[0][farthest]) + int(to_zero[1][farthest]))
