"""Batch norm in both modes, with running statistics (see `normalisation` for the bounds)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from equivalence.arithmetic.rounding.elementary import add, div, mul, rsub
from equivalence.arithmetic.rounding.functions import rsqrt
from equivalence.arithmetic.rounding.normalisation import (
    constants,
    doubled,
    gradient,
    normalised,
    shifted,
)
from equivalence.arithmetic.rounding.operands import context_of
from equivalence.arithmetic.rounding.precision import SAFE, number_error
from equivalence.arithmetic.rounding.reduction import count, total, var_mean
from equivalence.arithmetic.rounding.tensor import Knowledge, Rounding

if TYPE_CHECKING:
    from collections.abc import Sequence

aten = torch.ops.aten


def _inference_scale(
    context: Rounding, variance: Any, weight: Any, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor] | None:
    """rsqrt(variance + eps) · weight for exact statistics, and the magnitude of its factors.

    Relative errors: eps is rounded, its sum with the variance is rounded (half of both arrives),
    the inverse root is granted 6 u (see `rsqrt`), the product u: together 8 u and what is of second
    order.
    """
    if not (variance.state.exact and (weight is None or weight.state.exact)):
        return None
    precision = context.precision_for(dtype)
    total = variance.parts[0] + eps
    of_eps = number_error(eps, precision) / total
    inverse = total.rsqrt()
    sound = (variance.parts[0] >= 0) & (of_eps < 0.25) & (total * precision.headroom < torch.inf)
    scale = inverse if weight is None else inverse * weight.parts[0]
    relative = of_eps.add_(10 * precision.unit)
    bound = (scale.abs() * precision.headroom).mul_(relative / precision.headroom).mul_(SAFE)
    bound = torch.where(sound, bound.add_(2 * precision.eta), torch.inf)
    apart = inverse if weight is None else inverse + weight.parts[0].abs()
    return torch.stack((scale, bound)), apart


def _channels(t: Any, rank: int) -> Any:
    return None if t is None else t.view(1, -1, *(1,) * (rank - 2))


def _batch_norm(
    x: Any, weight: Any, bias: Any, mean: Any, var: Any, training: bool, momentum: float, eps: float
) -> Any:
    context = context_of(x, weight, bias, mean, var)
    x, weight, bias = constants(context, x, weight, bias)
    rank = x.dim()
    if training:
        others = [0, *range(2, rank)]
        variance, centre = var_mean(x, others, correction=0)
        inverse = rsqrt(add(variance, eps))
        saved: Any = (centre, inverse)
        if mean is not None:
            n = count(x, others)
            unbiased = div(mul(variance, n), n - 1)
            for running, batch in ((mean, centre), (var, unbiased)):
                share = context.constant(momentum)
                average = add(mul(running, rsub(share, 1)), mul(batch, share))
                aten.copy_.default(running, average)
    else:
        centre, variance = constants(context, mean, var)
        empty = torch.empty(2, 0, dtype=torch.float64, device=x.device)
        saved = tuple(context.wrap(empty, Knowledge(True), x.dtype) for _ in range(2))
        quick = _inference_scale(context, variance, weight, eps, x.dtype)
        if quick is not None:
            shape = (-1, *(1,) * (rank - 2))
            scale, apart = quick[0].view(2, *shape), quick[1].view(shape)
            means = centre.parts.view(2, *shape)
            return shifted(x, means, scale, apart, _channels(bias, rank)), *saved
        inverse = rsqrt(add(variance, eps))
    parts = (_channels(t, rank) for t in (centre, inverse, weight, bias))
    return normalised(x, *parts), *saved


@Rounding.rule(aten.native_batch_norm.default, aten._native_batch_norm_legit.default)
def _native_batch_norm(
    x: Any, weight: Any, bias: Any, mean: Any, var: Any, training: bool, momentum: float, eps: float
) -> Any:
    return _batch_norm(x, weight, bias, mean, var, training, momentum, eps)


@Rounding.rule(aten._native_batch_norm_legit.no_stats)
def _batch_norm_without_stats(x: Any, weight: Any, bias: Any, training: bool, momentum: float, eps: float) -> Any:
    return _batch_norm(x, weight, bias, None, None, training, momentum, eps)


@Rounding.rule(aten._native_batch_norm_legit_no_training.default)
def _batch_norm_no_training(x: Any, weight: Any, bias: Any, mean: Any, var: Any, momentum: float, eps: float) -> Any:
    return _batch_norm(x, weight, bias, mean, var, False, momentum, eps)


@Rounding.rule(aten.native_batch_norm_backward.default)
def _native_batch_norm_backward(
    grad: Any,
    x: Any,
    weight: Any,
    running_mean: Any,
    running_var: Any,
    save_mean: Any,
    save_inverse: Any,
    training: bool,
    eps: float,
    wanted: Sequence[bool],
) -> Any:
    context = context_of(grad, x, weight)
    grad, x, weight = constants(context, grad, x, weight)
    if training:
        mean, inverse = save_mean, save_inverse
    else:
        mean, inverse = (
            context.constant(running_mean),
            rsqrt(add(context.constant(running_var), eps)),
        )
    rank = x.dim()
    others = [0, *range(2, rank)]
    g = grad if weight is None else mul(grad, _channels(weight, rank))
    to_input, normal = gradient(x, g, _channels(mean, rank), _channels(inverse, rank), others, training)
    to_weight = doubled(total(mul(grad, normal), others)) if wanted[1] else None
    return to_input if wanted[0] else None, to_weight, total(grad, others) if wanted[2] else None
