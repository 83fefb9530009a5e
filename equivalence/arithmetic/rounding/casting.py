"""Changes of dtype.

To the module's own format or a more precise one the exact value stays; a kernel's result may be
rounded on the way. A cast to a coarser format is a function: the value is rounded, and where the
possible arguments round to different numbers the bound adds their distance.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from equivalence.arithmetic.rounding.compare import ne
from equivalence.arithmetic.rounding.functions import ends
from equivalence.arithmetic.rounding.operands import copied
from equivalence.arithmetic.rounding.precision import precision_of
from equivalence.arithmetic.rounding.tensor import Rounding, RoundingTensor

aten = torch.ops.aten


@Rounding.rule(aten._to_copy.default)
def _to_copy(x: RoundingTensor, *, dtype: torch.dtype | None = None, **_options: Any) -> Any:
    if dtype is None or dtype is x.dtype:
        return x.clone()
    if dtype is torch.bool:
        return ne(x, 0)
    if dtype.is_floating_point:
        return _to_float(x, dtype)
    if x.dtype.is_floating_point:
        return x.arithmetic.wrap(torch.ops.aten.trunc.default(x).parts, x.arithmetic.joined([x]), dtype)
    return copied(x, dtype)


def _to_float(x: RoundingTensor, dtype: torch.dtype) -> Any:
    context = x.arithmetic
    target = precision_of(dtype)
    if x.dtype is torch.bool or (x.dtype.is_floating_point and target.unit <= precision_of(x.dtype).unit):
        return copied(x, dtype)
    value, bound = x.parts
    if target.unit <= context.native.unit:
        precision = context.precision_for(dtype)
        bound = precision.charge(bound.clone(), x.reach, 1).add_(precision.eta)
        return context.result(value.clone(), bound, dtype)

    def rounded(t: Tensor) -> Tensor:
        return t.to(dtype).to(torch.float64)

    low, high, _ = ends(x)
    inexact = bound != 0
    low = torch.where(inexact, low.nextafter(low.new_tensor(-torch.inf)), value)
    high = torch.where(inexact, high.nextafter(high.new_tensor(torch.inf)), value)
    result = rounded(value)
    spread = rounded(high) - rounded(low)
    return context.result(result, spread.masked_fill_(~result.isfinite(), torch.inf), dtype)
