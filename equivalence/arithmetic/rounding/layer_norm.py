"""Layer norm and group norm (see `normalisation` for the bounds)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from equivalence.arithmetic.rounding.elementary import add, mul
from equivalence.arithmetic.rounding.functions import rsqrt
from equivalence.arithmetic.rounding.normalisation import constants, doubled, gradient, normalised
from equivalence.arithmetic.rounding.operands import context_of
from equivalence.arithmetic.rounding.reduction import total, var_mean
from equivalence.arithmetic.rounding.tensor import Rounding

if TYPE_CHECKING:
    from collections.abc import Sequence

aten = torch.ops.aten


def _statistics(x: Any, dims: Sequence[int], eps: float) -> tuple[Any, Any]:
    variance, mean = var_mean(x, dims, correction=0, keepdim=True)
    return mean, rsqrt(add(variance, eps))


@Rounding.rule(aten.native_layer_norm.default)
def _native_layer_norm(x: Any, shape: Sequence[int], weight: Any, bias: Any, eps: float) -> Any:
    context = context_of(x, weight, bias)
    x, weight, bias = constants(context, x, weight, bias)
    mean, inverse = _statistics(x, range(x.dim() - len(shape), x.dim()), eps)
    return normalised(x, mean, inverse, weight, bias), mean, inverse


@Rounding.rule(aten.native_layer_norm_backward.default)
def _native_layer_norm_backward(
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
    grad, x, weight = constants(context, grad, x, weight)
    outer = list(range(x.dim() - len(shape)))
    g = grad if weight is None else mul(grad, weight)
    to_input, normal = gradient(x, g, mean, inverse, range(len(outer), x.dim()))
    to_weight, to_bias = mul(grad, normal), grad
    if outer:
        to_weight, to_bias = total(to_weight, outer), total(to_bias, outer)
    return (
        to_input if wanted[0] else None,
        doubled(to_weight) if wanted[1] and weight is not None else None,
        to_bias if wanted[2] and bias is not None else None,
    )


def _grouped(t: Any, n: int, c: int, groups: int) -> Any:
    return t.reshape(n, groups, c // groups, -1)


def _per_channel(t: Any, c: int, groups: int) -> Any:
    return None if t is None else t.reshape(1, groups, c // groups, 1)


@Rounding.rule(aten.native_group_norm.default)
def _native_group_norm(x: Any, weight: Any, bias: Any, n: int, c: int, _pixels: int, groups: int, eps: float) -> Any:
    context = context_of(x, weight, bias)
    x, weight, bias = constants(context, x, weight, bias)
    rows = _grouped(x, n, c, groups)
    mean, inverse = _statistics(rows, (2, 3), eps)
    weight, bias = (_per_channel(t, c, groups) for t in (weight, bias))
    result = normalised(rows, mean, inverse, weight, bias).reshape(x.shape)
    return result, mean.reshape(n, groups), inverse.reshape(n, groups)


@Rounding.rule(aten.native_group_norm_backward.default)
def _native_group_norm_backward(
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
    grad, x, weight = constants(context, grad, x, weight)
    shape, grad = x.shape, _grouped(grad, n, c, groups)
    g = grad if weight is None else mul(grad, _per_channel(weight, c, groups))
    mean, inverse = (t.reshape(n, groups, 1, 1) for t in (mean, inverse))
    to_input, normal = gradient(_grouped(x, n, c, groups), g, mean, inverse, (2, 3))
    return (
        to_input.reshape(shape) if wanted[0] else None,
        doubled(total(mul(grad, normal), (0, 3))).reshape(c) if wanted[1] else None,
        total(grad, (0, 3)).reshape(c) if wanted[2] else None,
    )
