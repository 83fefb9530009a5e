"""Batch, layer and group norm, forward and backward.

With s = r w (r the inverse deviation, w the weight), kernels compute (x - m) s + beta, ((x - m) r)
w + beta or x s + (beta - m s). All are one real expression, so an error of x, m, s or beta enters
the same way; the roundings of all three are at most 5 u (|x| + |m|) |s| + 2 u |beta|, which also
charges the last form's cancellation.

The gradient is s (g - mean(g) - xhat mean(g xhat)); kernels associate its products differently, so
what rounding adds there is counted twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from equivalence.arithmetic.rounding.elementary import add, div, mul, sub
from equivalence.arithmetic.rounding.precision import SAFE
from equivalence.arithmetic.rounding.reduction import count, total
from equivalence.arithmetic.rounding.tensor import Knowledge, Rounding, RoundingTensor

if TYPE_CHECKING:
    from collections.abc import Sequence


def normalised(x: RoundingTensor, mean: Any, inverse: Any, weight: Any, bias: Any) -> Any:
    """(x - mean) · inverse · weight + bias, all broadcast against x."""
    scale = inverse if weight is None else mul(inverse, weight)
    apart = inverse.reach if weight is None else inverse.reach + weight.reach
    return shifted(x, mean.parts, scale.parts, apart, bias)


def shifted(x: RoundingTensor, mean: Tensor, scale: Tensor, apart: Tensor, bias: Any) -> Any:
    """(x - mean) · scale + bias; `apart` is at least what the factors of the scale are in
    magnitude.
    """
    context = x.arithmetic
    precision = context.precision_for(x.dtype)
    factor, factor_bound = scale
    # |x| <= |x - m| + |m|: what multiplies |x - m|, what multiplies x's bound, and the rest
    unit = 5 * precision.unit
    reach = torch.add(factor.abs(), factor_bound, alpha=2)
    centre = torch.add(mean[0].abs(), mean[1], alpha=2)
    passed = reach + factor_bound
    of_bound = torch.add(passed, reach, alpha=2 * unit)
    rest = torch.addcmul(passed * mean[1], centre, reach, value=2 * unit)
    rest = rest + (2 * precision.eta) * (2 + centre + reach + apart)
    parts = torch.empty(2, *x.shape, dtype=torch.float64, device=x.device)
    value, bound = parts
    deviation = x.parts[0] - mean[0]
    torch.mul(deviation, factor, out=value)
    size = deviation.abs_()
    torch.addcmul(rest, x.parts[1], of_bound, out=bound)
    bound.addcmul_(size, torch.add(factor_bound, reach, alpha=unit))
    # the largest product of any form, for overflow
    size.add_(x.parts[1], alpha=2).add_(2 * centre).mul_(torch.maximum(reach, apart))
    bound.add_(size.mul_(precision.headroom), alpha=0.0).mul_(SAFE)
    if bias is not None:
        torch.add(value, bias.parts[0], out=value)
        bound.add_(bias.parts[1])
        precision.charge(bound, value.abs().add_(bound, alpha=2).add_(bias.reach), 2)
    return context.wrap(parts, Knowledge(), x.dtype)


def constants(context: Rounding, *tensors: Any) -> list[Any]:
    """Operands of one run; what is missing stays missing."""
    return [None if t is None else context.constant(t) for t in tensors]


def doubled(x: Any) -> Any:
    """X with the bound of another order of evaluation."""
    x.parts[1].mul_(2)
    return x


def gradient(x: Any, g: Any, mean: Any, inverse: Any, dims: Sequence[int], centred: bool = True) -> tuple[Any, Any]:
    """The gradient of x from that of xhat, and xhat; without `centred`, mean and inverse are
    constants.
    """
    normal = mul(sub(x, mean), inverse)
    if centred:
        n = count(x, dims)
        correction = add(total(g, dims, True), mul(normal, total(mul(g, normal), dims, True)))
        g = sub(g, div(correction, n))
    return doubled(mul(inverse, g)), normal
