"""Sliding windows over the last axes: a strided view, and its adjoint, which adds windows back."""

from __future__ import annotations

import math
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence


class Windows(NamedTuple):
    """Geometry of windows in every spatial dimension; `after` is the padding at the end, at least `padding`."""

    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def output(self) -> tuple[int, ...]:
        return tuple(
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(self.size, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        )

    @property
    def trivial(self) -> bool:
        """Whether windows are the elements themselves."""
        return all(k == 1 for k in self.kernel) and all(s == 1 for s in self.stride) and not any(self.padding)

    def view(self, x: Tensor, output: Sequence[int] | None = None, value: float = 0.0) -> Tensor:
        """(…, *size) as (…, *kernel, *output), a view of the padded tensor."""
        output = self.output if output is None else output
        spatial = len(self.size)
        after = [  # windows of a ceil-mode pool may overhang the padding
            max(p, (o - 1) * s + d * (k - 1) + 1 - n - p)
            for n, k, s, p, d, o in zip(
                self.size, self.kernel, self.stride, self.padding, self.dilation, output, strict=True
            )
        ]
        if any(self.padding) or any(after):
            pads = [q for p, a in zip(reversed(self.padding), reversed(after), strict=True) for q in (p, a)]
            x = F.pad(x, pads, value=value)
        lead, steps = x.shape[:-spatial], x.stride()[-spatial:]
        inner = tuple(d * s for d, s in zip(self.dilation, steps, strict=True))
        outer = tuple(t * s for t, s in zip(self.stride, steps, strict=True))
        return x.as_strided((*lead, *self.kernel, *output), (*x.stride()[:-spatial], *inner, *outer))

    def add_back(self, windows: Tensor) -> Tensor:
        """The adjoint of `view`: (…, *kernel, *output) to (…, *size), overlapping windows added, not reduced."""
        spatial = len(self.size)
        output = windows.shape[-spatial:]
        lead = windows.shape[: -2 * spatial]
        extent = [
            max(n + 2 * p, (o - 1) * s + d * (k - 1) + 1)
            for n, k, s, p, d, o in zip(
                self.size, self.kernel, self.stride, self.padding, self.dilation, output, strict=True
            )
        ]
        total = windows.new_zeros((*lead, *extent))
        for offset in product(*(range(k) for k in self.kernel)):
            cells = tuple(
                slice(i * d, i * d + (o - 1) * s + 1, s)
                for i, d, o, s in zip(offset, self.dilation, output, self.stride, strict=True)
            )
            target: Any = (..., *cells)
            source: Any = (..., *offset, *(slice(None),) * spatial)
            total[target] += windows[source]
        cut: Any = (..., *(slice(p, p + n) for p, n in zip(self.padding, self.size, strict=True)))
        return total[cut]

    @property
    def members(self) -> int:
        return math.prod(self.kernel)


def per_dimension(values: int | Sequence[int], spatial: int) -> tuple[int, ...]:
    """A hyper-parameter given once or per dimension."""
    values = (values,) if isinstance(values, int) else tuple(values)
    return values * spatial if len(values) == 1 else values
