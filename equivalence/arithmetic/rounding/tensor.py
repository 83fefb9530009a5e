"""The run and its tensor: every element is a float64 value and a bound on its distance from the
truth.

For an element with value v, bound b, exact result t of the module's operations on the embedded
numbers, and the result c of any conforming kernel of `Rounding.dtype` (see `precision`): |v - t| <=
b and |c - t| <= b. So t lies within b, and c within 2 b, of v; every rule is derived from these two
facts and restores them, forward and backward. The exact result follows the program as torch defines
it: a softplus is linear beyond its threshold.

The order of operations that the program itself fixes (a loop adding branches) is part of the claim;
the order within one operation is not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from equivalence.arithmetic.rounding.precision import (
    INTEGERS,
    Precision,
    number_error,
    precision_of,
)
from equivalence.arithmetic.stacked import Arithmetic, StackedTensor, _make_wrapper

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Knowledge:
    """Whether all elements of a storage are exact (bound zero); shared by its views."""

    __slots__ = ("exact", "version")

    def __init__(self, exact: bool = False) -> None:
        self.exact = exact
        self.version = 0

    def absorb(self, other: Knowledge) -> None:
        """Something was written into the storage."""
        self.exact = self.exact and other.exact
        self.version += 1


class Rounding(Arithmetic):
    """One run. `dtype` is the format whose kernels the bounds cover; float64 gives the tightest
    values.

    `native` is the module's own format, by default `dtype`. A cast to it or to a more precise
    format keeps the exact value; a cast to a coarser one is a function of its argument, and what is
    computed in that format is charged at its precision.
    """

    count = 2

    def __init__(
        self,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        *,
        native: torch.dtype | None = None,
    ) -> None:
        self.dtype = dtype
        self.native = precision_of(native or dtype)
        self.precision = precision_of(dtype)
        self.device = torch.device(device)

    def precision_for(self, dtype: torch.dtype) -> Precision:
        """What an operation with results of this dtype is charged."""
        if not dtype.is_floating_point:
            return INTEGERS
        if dtype is self.dtype:
            return self.precision
        own = precision_of(dtype)
        return own if own.unit > max(self.native.unit, self.precision.unit) else self.precision

    def embed(self, tensor: Tensor) -> RoundingTensor:
        """A plain floating tensor, exactly as it is stored."""
        value = tensor.detach().to(self.device, torch.float64)
        bound = torch.zeros_like(value)
        exact = bool(value.isfinite().all())
        if not exact:
            bound.masked_fill_(~value.isfinite(), torch.inf)
        return self.wrap(torch.stack((value, bound)), Knowledge(exact), tensor.dtype)

    def embed_all(self, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """Every floating tensor of a state dict; others are returned as they are."""
        return {n: self.embed(t) if t.is_floating_point() else t for n, t in tensors.items()}

    def constant(self, value: Tensor | float, dtype: torch.dtype | None = None) -> Any:
        """A plain tensor as it is stored; a number with the error of its conversion."""
        if isinstance(value, RoundingTensor):
            return value
        if isinstance(value, Tensor):
            return self.embed(value)
        dtype = dtype or self.native.dtype
        error = number_error(float(value), self.precision_for(dtype))
        parts = torch.tensor([float(value), error], dtype=torch.float64, device=self.device)
        return self.wrap(parts, Knowledge(error == 0.0), dtype)

    def wrap(self, parts: Tensor, state: Knowledge, dtype: torch.dtype) -> RoundingTensor:
        """A tensor from its two parts."""
        self_: RoundingTensor = _make_wrapper(
            RoundingTensor,
            parts.shape[1:],
            strides=parts.stride()[1:],
            storage_offset=parts.storage_offset(),
            dtype=dtype,
            device=self.device,
        )
        self_.arithmetic = self
        self_.parts = parts
        self_.state = state
        return self_

    def result(self, value: Tensor, bound: Tensor, dtype: torch.dtype) -> RoundingTensor:
        """A tensor from a fresh value and bound, which are copied."""
        return self.wrap(torch.stack((value, bound)), Knowledge(), dtype)

    def joined(self, tensors: Sequence[StackedTensor]) -> Knowledge:
        """What is known of elements of several tensors."""
        return Knowledge(all(t.state.exact for t in tensors))


class RoundingTensor(StackedTensor):
    """Value and bound of shape (2, *shape), float64; see the module."""

    arithmetic: Rounding
    state: Knowledge
    rules = Rounding.rules

    @property
    def value(self) -> Tensor:
        """What float64 kernels compute."""
        return self.parts[0]

    @property
    def bound(self) -> Tensor:
        """The rigorous absolute bound; infinite where nothing is known."""
        return self.parts[1].nan_to_num(nan=torch.inf, posinf=torch.inf)

    @property
    def reach(self) -> Tensor:
        """A fresh tensor: what neither the value, nor the truth, nor a kernel's result exceeds in
        magnitude.
        """
        return self.parts[0].abs().add_(self.parts[1], alpha=2)
