"""Batch, layer and group norm, forward and backward.

With s = r w (r the inverse deviation, w the weight), kernels compute (x - m) s + beta, ((x - m) r) w + beta or
x s + (beta - m s). All are one real expression, so an error of x, m, s or beta enters the same way; the roundings of
all three are at most 5 u (|x| + |m|) |s| + 2 u |beta|, which also charges the last form's cancellation.

The gradient is s (g - mean(g) - xhat mean(g xhat)); kernels associate its products differently, so what rounding adds
there is counted twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from equivalence.arithmetic.rounding.elementary import add, div, mul, rsub, sub
from equivalence.arithmetic.rounding.functions import rsqrt
from equivalence.arithmetic.rounding.operands import context_of, number_error
from equivalence.arithmetic.rounding.precision import SAFE
from equivalence.arithmetic.rounding.reduction import count, total, var_mean
from equivalence.arithmetic.rounding.tensor import Knowledge, Rounding, RoundingTensor

if TYPE_CHECKING:
    from collections.abc import Sequence

aten = torch.ops.aten


def _normalised(x: RoundingTensor, mean: Any, inverse: Any, weight: Any, bias: Any) -> Any:
    """(x - mean) · inverse · weight + bias, all broadcast against x."""
    scale = inverse if weight is None else mul(inverse, weight)
    apart = inverse.reach if weight is None else inverse.reach + weight.reach
    return _shifted(x, mean.parts, scale.parts, apart, bias)


def _shifted(x: RoundingTensor, mean: Tensor, scale: Tensor, apart: Tensor, bias: Any) -> Any:
    """(x - mean) · scale + bias; `apart` is at least what the factors of the scale are in magnitude."""
    context = x.arithmetic
    precision = context.precision_for(x.dtype)
    factor, factor_bound = scale
    # |x| <= |x - m| + |m|: what multiplies |x - m|, what multiplies x's bound, and what is left, per channel
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


def _inference_scale(
    context: Rounding, variance: Any, weight: Any, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor] | None:
    """rsqrt(variance + eps) · weight for exact statistics, and the magnitude of its factors.

    Relative errors: eps is rounded, its sum with the variance is rounded (half of both arrives), the inverse root is
    granted 6 u (see `rsqrt`), the product u: together 8 u and what is of second order.
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


def _constants(context: Rounding, *tensors: Any) -> list[Any]:
    return [None if t is None else context.constant(t) for t in tensors]


def _batch_norm(
    x: Any, weight: Any, bias: Any, mean: Any, var: Any, training: bool, momentum: float, eps: float
) -> Any:
    context = context_of(x, weight, bias, mean, var)
    x, weight, bias = _constants(context, x, weight, bias)
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
        centre, variance = _constants(context, mean, var)
        saved = (x.new_empty((0,)), x.new_empty((0,)))
        quick = _inference_scale(context, variance, weight, eps, x.dtype)
        if quick is not None:
            shape = (-1, *(1,) * (rank - 2))
            scale, apart = quick[0].view(2, *shape), quick[1].view(shape)
            means = centre.parts.view(2, *shape)
            return _shifted(x, means, scale, apart, _channels(bias, rank)), *saved
        inverse = rsqrt(add(variance, eps))
    parts = (_channels(t, rank) for t in (centre, inverse, weight, bias))
    return _normalised(x, *parts), *saved


@Rounding.rule(aten.native_batch_norm.default, aten._native_batch_norm_legit.default)
def native_batch_norm(
    x: Any, weight: Any, bias: Any, mean: Any, var: Any, training: bool, momentum: float, eps: float
) -> Any:
    return _batch_norm(x, weight, bias, mean, var, training, momentum, eps)


@Rounding.rule(aten._native_batch_norm_legit.no_stats)
def batch_norm_without_stats(x: Any, weight: Any, bias: Any, training: bool, momentum: float, eps: float) -> Any:
    return _batch_norm(x, weight, bias, None, None, training, momentum, eps)


@Rounding.rule(aten._native_batch_norm_legit_no_training.default)
def batch_norm_no_training(x: Any, weight: Any, bias: Any, mean: Any, var: Any, momentum: float, eps: float) -> Any:
    return _batch_norm(x, weight, bias, mean, var, False, momentum, eps)


def _doubled(x: Any) -> Any:
    """X with the bound of another order of evaluation."""
    x.parts[1].mul_(2)
    return x


def _gradient(x: Any, g: Any, mean: Any, inverse: Any, dims: Sequence[int], centred: bool = True) -> tuple[Any, Any]:
    """The gradient of x from that of xhat, and xhat; without `centred`, mean and inverse are constants."""
    normal = mul(sub(x, mean), inverse)
    if centred:
        n = count(x, dims)
        correction = add(total(g, dims, True), mul(normal, total(mul(g, normal), dims, True)))
        g = sub(g, div(correction, n))
    return _doubled(mul(inverse, g)), normal


@Rounding.rule(aten.native_batch_norm_backward.default)
def native_batch_norm_backward(
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
    grad, x, weight = _constants(context, grad, x, weight)
    if training:
        mean, inverse = save_mean, save_inverse
    else:
        mean, inverse = context.constant(running_mean), rsqrt(add(context.constant(running_var), eps))
    rank = x.dim()
    others = [0, *range(2, rank)]
    g = grad if weight is None else mul(grad, _channels(weight, rank))
    to_input, normal = _gradient(x, g, _channels(mean, rank), _channels(inverse, rank), others, training)
    to_weight = _doubled(total(mul(grad, normal), others)) if wanted[1] else None
    return to_input if wanted[0] else None, to_weight, total(grad, others) if wanted[2] else None


def _statistics(x: Any, dims: Sequence[int], eps: float) -> tuple[Any, Any]:
    variance, mean = var_mean(x, dims, correction=0, keepdim=True)
    return mean, rsqrt(add(variance, eps))


@Rounding.rule(aten.native_layer_norm.default)
def native_layer_norm(x: Any, shape: Sequence[int], weight: Any, bias: Any, eps: float) -> Any:
    context = context_of(x, weight, bias)
    x, weight, bias = _constants(context, x, weight, bias)
    mean, inverse = _statistics(x, range(x.dim() - len(shape), x.dim()), eps)
    return _normalised(x, mean, inverse, weight, bias), mean, inverse


@Rounding.rule(aten.native_layer_norm_backward.default)
def native_layer_norm_backward(
    grad: Any,
    x: Any,
    shape: Sequence[int],
    mean: Any,
    inverse: Any,
    weight: Any,
    bias: Any,
    wanted: Sequence[bool],
) -> Any:
    context = context_of(grad, x, weight)
    grad, x, weight = _constants(context, grad, x, weight)
    outer = list(range(x.dim() - len(shape)))
    g = grad if weight is None else mul(grad, weight)
    to_input, normal = _gradient(x, g, mean, inverse, range(len(outer), x.dim()))
    to_weight, to_bias = mul(grad, normal), grad
    if outer:
        to_weight, to_bias = total(to_weight, outer), total(to_bias, outer)
    return (
        to_input if wanted[0] else None,
        _doubled(to_weight) if wanted[1] and weight is not None else None,
        to_bias if wanted[2] and bias is not None else None,
    )


def _grouped(t: Any, n: int, c: int, groups: int) -> Any:
    return t.reshape(n, groups, c // groups, -1)


def _per_channel(t: Any, c: int, groups: int) -> Any:
    return None if t is None else t.reshape(1, groups, c // groups, 1)


@Rounding.rule(aten.native_group_norm.default)
def native_group_norm(x: Any, weight: Any, bias: Any, n: int, c: int, _pixels: int, groups: int, eps: float) -> Any:
    context = context_of(x, weight, bias)
    x, weight, bias = _constants(context, x, weight, bias)
    rows = _grouped(x, n, c, groups)
    mean, inverse = _statistics(rows, (2, 3), eps)
    weight, bias = (_per_channel(t, c, groups) for t in (weight, bias))
    result = _normalised(rows, mean, inverse, weight, bias).reshape(x.shape)
    return result, mean.reshape(n, groups), inverse.reshape(n, groups)


@Rounding.rule(aten.native_group_norm_backward.default)
def native_group_norm_backward(
    grad: Any,
    x: Any,
    mean: Any,
    inverse: Any,
    weight: Any,
    n: int,
    c: int,
    _pixels: int,
    groups: int,
    wanted: Sequence[bool],
) -> Any:
    context = context_of(grad, x, weight)
    grad, x, weight = _constants(context, grad, x, weight)
    shape, grad = x.shape, _grouped(grad, n, c, groups)
    g = grad if weight is None else mul(grad, _per_channel(weight, c, groups))
    mean, inverse = (t.reshape(n, groups, 1, 1) for t in (mean, inverse))
    to_input, normal = _gradient(_grouped(x, n, c, groups), g, mean, inverse, (2, 3))
    return (
        to_input.reshape(shape) if wanted[0] else None,
        _doubled(total(mul(grad, normal), (0, 3))).reshape(c) if wanted[1] else None,
        total(grad, (0, 3)).reshape(c) if wanted[2] else None,
    )
