"""Matrix products and convolutions: anything linear in each of two operands, with n products per
sum.

With reaches A, B >= |truth|, |computed| and an error K = (n + 3) u for the sum (see `precision`),
the error is at most op(A, b_B) + op(b_A, |B|) + K op(A, B) <= K op(A + b_A / K, B) + op(A, b_B):
one more float64 product if an operand is exact, two if none is. Multiplying by K last keeps tiny
bounds from underflowing; the same product bounds every partial sum, in any order, for overflow.
Sums of exact zeros only are exact zeros.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from equivalence.arithmetic.rounding.elementary import add, mul
from equivalence.arithmetic.rounding.operands import Operand, context_of
from equivalence.arithmetic.rounding.precision import DOUBLE, Precision, safe, sum_units
from equivalence.arithmetic.rounding.tensor import Rounding, RoundingTensor

aten = torch.ops.aten
Product = Callable[[Tensor, Tensor], Tensor]


def bilinear(op: Product, a: RoundingTensor, b: RoundingTensor, terms: int, dtype: torch.dtype) -> Any:
    """op(a, b) with its bound, where every result sums so many products."""
    context = a.arithmetic
    value = op(a.parts[0], b.parts[0])
    bound = _product_bound(op, a, b, terms, context.precision_for(dtype))
    return context.result(value, bound, dtype)


def _product_bound(op: Product, a: RoundingTensor, b: RoundingTensor, terms: int, precision: Precision) -> Tensor:
    k = sum_units(terms) * max(precision.unit, DOUBLE)
    if not b.state.exact and a.state.exact:
        bound = op(a.parts[0].abs(), b.reach.add_(b.parts[1], alpha=1 / k))
    else:
        bound = op(a.reach.add_(a.parts[1], alpha=1 / k), b.reach)
    if not bound.numel():
        return bound
    least, most = bound.aminmax()
    scale = safe(terms) * (1 + k) * precision.headroom
    if not float(most) * scale < math.inf:
        # something may overflow: where, is seen from the magnitudes alone
        magnitude = op(a.reach, b.reach).mul_(scale)
        bound.masked_fill_(~magnitude.isfinite(), torch.inf)
    zeros = None if float(least) > 0 else bound == 0
    bound.mul_(k * safe(terms))
    if not (a.state.exact or b.state.exact):
        bound.add_(op(a.reach, b.parts[1]), alpha=safe(terms))
    bound.add_(2 * terms * precision.eta * (1 + k))
    if zeros is not None:
        if _least(a) * _least(b) < 1e-290:  # a zero may be the underflow of a product
            zeros &= op((a.reach != 0).to(torch.float64), (b.reach != 0).to(torch.float64)) == 0
        bound.masked_fill_(zeros, 0.0)
    return bound


def _least(x: RoundingTensor) -> float:
    """The smallest reach that is not zero."""
    reach = x.reach
    return float(torch.where(reach > 0, reach, torch.inf).amin())


def _product(op: Product, a: Operand, b: Operand) -> Any:
    context = context_of(a, b)
    a, b = context.constant(a), context.constant(b)
    return bilinear(op, a, b, max(1, a.shape[-1]), a.dtype)


@Rounding.rule(aten.mm.default)
def _mm(a: Operand, b: Operand) -> Any:
    return _product(torch.mm, a, b)


@Rounding.rule(aten.bmm.default)
def _bmm(a: Operand, b: Operand) -> Any:
    return _product(torch.bmm, a, b)


@Rounding.rule(aten.mv.default)
def _mv(a: Operand, b: Operand) -> Any:
    return _product(torch.mv, a, b)


@Rounding.rule(aten.dot.default)
def _dot(a: Operand, b: Operand) -> Any:
    return _product(torch.dot, a, b)


def _plus(c: Operand, product: Any, beta: Operand, alpha: Operand) -> Any:
    product = product if alpha == 1 else mul(product, alpha)
    if beta == 0:
        return product
    return add(product, c if beta == 1 else mul(product.arithmetic.constant(c), beta))


@Rounding.rule(aten.addmm.default)
def _addmm(c: Operand, a: Operand, b: Operand, *, beta: Operand = 1, alpha: Operand = 1) -> Any:
    return _plus(c, _mm(a, b), beta, alpha)


@Rounding.rule(aten.baddbmm.default)
def _baddbmm(c: Operand, a: Operand, b: Operand, *, beta: Operand = 1, alpha: Operand = 1) -> Any:
    return _plus(c, _bmm(a, b), beta, alpha)


@Rounding.rule(aten.addmv.default)
def _addmv(c: Operand, a: Operand, b: Operand, *, beta: Operand = 1, alpha: Operand = 1) -> Any:
    return _plus(c, _mv(a, b), beta, alpha)
