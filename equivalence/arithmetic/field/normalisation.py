"""Batch, layer and group norm: polynomials and one rsqrt of the variance plus eps, forward and backward.

With n elements per statistic, xhat = (x - mean) · r, r = rsqrt(var + eps), the gradient of x is
(r / n) · (n g - sum(g) - xhat · sum(g xhat)) with g the gradient of xhat; division by n is exact.
"""

from __future__ import annotations

import math
from fractions import Fraction
from operator import is_
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from equivalence.arithmetic.field.ring import add, div, mul, rsqrt, sub, total, var_mean
from equivalence.arithmetic.field.tensor import Field, FieldTensor
from equivalence.arithmetic.structure import write

if TYPE_CHECKING:
    from collections.abc import Sequence

    from equivalence.arithmetic.field.bound import Bound

aten = torch.ops.aten


def _channels(t: Any, rank: int) -> Any:
    return t.view(1, -1, *(1,) * (rank - 2))


def _others(x: FieldTensor) -> list[int]:
    return [0, *range(2, x.dim())]


class _Fold(NamedTuple):
    """x · scale + shift, per channel."""

    scale: Tensor
    shift: Tensor
    scale_bound: Bound
    shift_bound: Bound


def _fold(field: Field, weight: Any, bias: Any, mean: FieldTensor, inverse: Tensor, bound: Bound) -> _Fold:
    """Everything but x, on tensors of shape (K, C)."""
    modulus = field.modulus
    scale = inverse
    if weight is not None:
        scale, bound = modulus.mul(inverse, weight.parts), bound * weight.state
    shift = torch.mul(mean.parts, scale).neg_()
    shift_bound = mean.state * bound
    if bias is not None:
        shift.add_(bias.parts)
        shift_bound = shift_bound + bias.state
    return _Fold(scale, modulus.reduce_(shift), bound, shift_bound)


def _folded(field: Field, weight: Any, bias: Any, mean: Any, var: Any, eps: float) -> _Fold:
    """The fold of running statistics, remembered by the variance while none of the four is written to."""
    sources = (weight, bias, mean, var)
    versions = tuple(None if t is None else t.state.version for t in sources)
    known = var.__dict__.get("fold")
    if known is not None and known[0] == (eps, versions) and all(map(is_, known[1], sources[:3])):
        return known[2]  # type: ignore[no-any-return]
    number, small = field.scalar(eps, 1)
    inverse, bound = field.random("rsqrt", (field.modulus.reduce_(var.parts + number), var.state + small))
    fold = _fold(field, weight, bias, mean, inverse, bound)
    var.__dict__["fold"] = ((eps, versions), sources[:3], fold)
    return fold


def _apply(x: FieldTensor, fold: _Fold) -> Any:
    field = x.arithmetic
    shape = (field.count, 1, -1) + (1,) * (x.dim() - 2)
    parts = torch.addcmul(fold.shift.view(shape), x.parts, fold.scale.view(shape))
    bound = x.state * fold.scale_bound + fold.shift_bound
    return field.wrap(field.modulus.reduce_(parts), bound, x.dtype)


def _batch_norm(
    x: FieldTensor,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    training: bool,
    momentum: float,
    eps: float,
    update: bool = True,
) -> Any:
    field = x.arithmetic
    if not training:
        weight, bias, running_mean, running_var = (
            None if t is None else field.constant(t) for t in (weight, bias, running_mean, running_var)
        )
        return _apply(x, _folded(field, weight, bias, running_mean, running_var, eps)), torch.empty(0), torch.empty(0)
    weight, bias = (None if t is None else field.constant(t) for t in (weight, bias))
    variance, mean = var_mean(x, _others(x), correction=0)
    inverse = rsqrt(add(variance, eps))
    if running_mean is not None and update:
        n = x.numel() // x.shape[1]
        unbiased = mul(variance, Fraction(n, n - 1))
        for running, batch in ((running_mean, mean), (running_var, unbiased)):
            old = mul(running, 1 - Fraction(momentum))
            write(running, add(old, mul(batch, momentum)))
    fold = _fold(field, weight, bias, mean, inverse.parts, inverse.state)
    return _apply(x, fold), mean, inverse


@Field.rule(aten.native_batch_norm.default, aten._native_batch_norm_legit.default)
def native_batch_norm(
    x: Any, weight: Any, bias: Any, mean: Any, var: Any, training: bool, momentum: float, eps: float
) -> Any:
    return _batch_norm(x, weight, bias, mean, var, training, momentum, eps)


@Field.rule(aten._native_batch_norm_legit.no_stats)
def batch_norm_without_stats(x: Any, weight: Any, bias: Any, training: bool, momentum: float, eps: float) -> Any:
    return _batch_norm(x, weight, bias, None, None, training, momentum, eps)


@Field.rule(aten._native_batch_norm_legit_no_training.default)
def batch_norm_no_training(x: Any, weight: Any, bias: Any, mean: Any, var: Any, momentum: float, eps: float) -> Any:
    return _batch_norm(x, weight, bias, mean, var, False, momentum, eps)


@Field.rule(aten.native_batch_norm_backward.default)
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
    field = grad.arithmetic
    x = field.constant(x)
    if training:
        mean, inverse = save_mean, save_inverse
    else:
        mean, inverse = field.constant(running_mean), rsqrt(add(field.constant(running_var), eps))
    rank = x.dim()
    others = _others(x)
    inverse = _channels(inverse, rank)
    normal = mul(sub(x, _channels(mean, rank)), inverse)
    to_weight = total(mul(grad, normal), others)
    to_bias = total(grad, others)
    to_input = None
    if wanted[0]:
        scale = inverse if weight is None else mul(inverse, _channels(field.constant(weight), rank))
        to_input = mul(grad, scale)
        if training:
            n = x.numel() // x.shape[1]
            correlated = mul(normal, _channels(to_weight, rank))
            constant = add(correlated, _channels(to_bias, rank))
            to_input = sub(to_input, mul(div(constant, n), scale))
    return to_input, to_weight if wanted[1] else None, to_bias if wanted[2] else None


def _normalise(x: FieldTensor, dims: Sequence[int], eps: float) -> tuple[Any, Any, Any]:
    variance, mean = var_mean(x, dims, correction=0, keepdim=True)
    inverse = rsqrt(add(variance, eps))
    return mul(sub(x, mean), inverse), mean, inverse


def _backward(x: Any, g: Any, mean: Any, inverse: Any, dims: Sequence[int]) -> tuple[Any, Any]:
    """The gradient of x from that of xhat, and xhat."""
    n = math.prod(x.shape[d] for d in dims)
    normal = mul(sub(x, mean), inverse)
    correction = add(total(g, dims, True), mul(normal, total(mul(g, normal), dims, True)))
    return mul(inverse, sub(g, div(correction, n))), normal


@Field.rule(aten.native_layer_norm.default)
def native_layer_norm(x: Any, shape: Sequence[int], weight: Any, bias: Any, eps: float) -> Any:
    dims = list(range(x.dim() - len(shape), x.dim()))
    y, mean, inverse = _normalise(x, dims, eps)
    return _affine(y, weight, bias), mean, inverse


def _affine(y: Any, weight: Any, bias: Any) -> Any:
    y = y if weight is None else mul(y, weight)
    return y if bias is None else add(y, bias)


@Field.rule(aten.native_layer_norm_backward.default)
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
    outer = list(range(x.dim() - len(shape)))
    dims = list(range(x.dim() - len(shape), x.dim()))
    g = grad if weight is None else mul(grad, weight)
    to_input, normal = _backward(x, g, mean, inverse, dims)
    to_weight, to_bias = mul(grad, normal), grad
    if outer:
        to_weight, to_bias = total(to_weight, outer), total(to_bias, outer)
    return (
        to_input if wanted[0] else None,
        to_weight if wanted[1] and weight is not None else None,
        to_bias if wanted[2] and bias is not None else None,
    )


def _grouped(t: Any, n: int, c: int, groups: int) -> Any:
    return t.reshape(n, groups, c // groups, -1)


def _per_channel(t: Any, c: int, groups: int) -> Any:
    return t.reshape(1, groups, c // groups, 1)


@Field.rule(aten.native_group_norm.default)
def native_group_norm(x: Any, weight: Any, bias: Any, n: int, c: int, _pixels: int, groups: int, eps: float) -> Any:
    y, mean, inverse = _normalise(_grouped(x, n, c, groups), (2, 3), eps)
    weight, bias = (None if t is None else _per_channel(t, c, groups) for t in (weight, bias))
    result = _affine(y, weight, bias).reshape(x.shape)
    return result, mean.reshape(n, groups), inverse.reshape(n, groups)


@Field.rule(aten.native_group_norm_backward.default)
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
    grad, shape = _grouped(grad, n, c, groups), x.shape
    g = grad if weight is None else mul(grad, _per_channel(weight, c, groups))
    mean, inverse = (t.reshape(n, groups, 1, 1) for t in (mean, inverse))
    to_input, normal = _backward(_grouped(x, n, c, groups), g, mean, inverse, (2, 3))
    return (
        to_input.reshape(shape) if wanted[0] else None,
        total(mul(grad, normal), (0, 3)).reshape(c) if wanted[1] else None,
        total(grad, (0, 3)).reshape(c) if wanted[2] else None,
    )
