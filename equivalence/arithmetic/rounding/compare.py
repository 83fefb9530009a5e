"""Comparisons: certain if truth and every kernel agree, else a mask with bound 1.

Both sides lie within twice their bounds of their values; the difference of two float64 numbers has
the exact sign. A program may branch on what is certain; `bool()` or `item()` of anything else is an
`UnsupportedOperation`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from equivalence.arithmetic.rounding.operands import Operand, Pair, is_number, pair
from equivalence.arithmetic.rounding.precision import SAFE
from equivalence.arithmetic.rounding.tensor import Rounding, RoundingTensor
from equivalence.arithmetic.stacked import unsupported

aten = torch.ops.aten
OPEN = "depends on a comparison that rounding leaves open"


def _difference(a: Operand, b: Operand) -> tuple[Pair, Tensor, Tensor]:
    """The difference and what it may be off by; an infinite doubt, made NaN, settles nothing."""
    p = pair(a, b)
    if is_number(b) and math.isinf(b):  # no number: what has a finite bound is on this side of it
        return p, p.a - p.b, p.a_bound * 0.0
    doubt = (p.a_bound + p.b_bound) * (2 * SAFE)
    return p, p.a - p.b, doubt.masked_fill_(~(doubt < math.inf), math.nan)


def _mask(context: Rounding, value: Tensor, settled: Tensor) -> Any:
    parts = torch.stack((value.to(torch.float64), (~settled).to(torch.float64)))
    result = context.result(parts[0], parts[1], torch.bool)
    result.state.exact = bool(settled.all())
    return result


@Rounding.rule(aten.gt)
def gt(a: Operand, b: Operand) -> Any:
    """The mask a > b."""
    p, d, doubt = _difference(a, b)
    return _mask(p.context, d > 0, (d > doubt) | (d <= -doubt))


@Rounding.rule(aten.ge)
def _ge(a: Operand, b: Operand) -> Any:
    p, d, doubt = _difference(a, b)
    return _mask(p.context, d >= 0, (d >= doubt) | (d < -doubt))


@Rounding.rule(aten.lt)
def _lt(a: Operand, b: Operand) -> Any:
    return _logical_not(_ge(a, b))


@Rounding.rule(aten.le)
def _le(a: Operand, b: Operand) -> Any:
    return _logical_not(gt(a, b))


@Rounding.rule(aten.eq)
def _eq(a: Operand, b: Operand) -> Any:
    p, d, doubt = _difference(a, b)
    return _mask(p.context, d == 0, (d.abs() > doubt) | (doubt == 0))


@Rounding.rule(aten.ne)
def ne(a: Operand, b: Operand) -> Any:
    """The mask a != b."""
    return _logical_not(_eq(a, b))


@Rounding.rule(aten.logical_not.default, aten.bitwise_not.default)
def _logical_not(x: RoundingTensor) -> Any:
    if x.dtype is not torch.bool:
        return _eq(x, 0)
    return _mask(x.arithmetic, x.parts[0] == 0, x.parts[1] == 0)


def _parts(x: Operand) -> tuple[Tensor, Tensor]:
    """Truth of a mask, plain or not, and whether it is settled."""
    if not isinstance(x, RoundingTensor):
        plain = torch.as_tensor(x) != 0
        return plain, torch.ones_like(plain)
    x = x if x.dtype is torch.bool else ne(x, 0)
    return x.parts[0] != 0, x.parts[1] == 0


def _context(a: Operand, b: Operand) -> Rounding:
    found: Rounding = (a if isinstance(a, RoundingTensor) else b).arithmetic
    return found


@Rounding.rule(aten.logical_and.default, aten.bitwise_and.Tensor)
def _logical_and(a: Operand, b: Operand) -> Any:
    (left, sure_left), (right, sure_right) = _parts(a), _parts(b)
    settled = (sure_left & sure_right) | (sure_left & ~left) | (sure_right & ~right)
    return _mask(_context(a, b), left & right, settled)


@Rounding.rule(aten.logical_or.default, aten.bitwise_or.Tensor)
def logical_or(a: Operand, b: Operand) -> Any:
    """The mask a or b: certain if one that is true is."""
    (left, sure_left), (right, sure_right) = _parts(a), _parts(b)
    settled = (sure_left & sure_right) | (sure_left & left) | (sure_right & right)
    return _mask(_context(a, b), left | right, settled)


@Rounding.rule(aten.logical_xor.default, aten.bitwise_xor.Tensor)
def _logical_xor(a: Operand, b: Operand) -> Any:
    (left, sure_left), (right, sure_right) = _parts(a), _parts(b)
    return _mask(_context(a, b), left ^ right, sure_left & sure_right)


@Rounding.rule(aten.any.default, aten.any.dim, aten.any.dims)
def _any_(x: RoundingTensor, dim: Any = None, keepdim: bool = False) -> Any:
    value, sure = _parts(x)
    sure_true = (value & sure).any(dim=dim, keepdim=keepdim)
    return _mask(
        x.arithmetic,
        value.any(dim=dim, keepdim=keepdim),
        sure_true | sure.all(dim=dim, keepdim=keepdim),
    )


@Rounding.rule(aten.all.default, aten.all.dim, aten.all.dims)
def _all_(x: RoundingTensor, dim: Any = None, keepdim: bool = False) -> Any:
    return _logical_not(_any_(_logical_not(x), dim, keepdim))


@Rounding.rule(aten.isnan.default)
def isnan(x: RoundingTensor) -> Any:
    """A finite bound rules out NaN and infinity, in the kernel too."""
    return _mask(x.arithmetic, x.parts[0].isnan(), x.parts[1].isfinite())


@Rounding.rule(aten.isinf.default)
def _isinf(x: RoundingTensor) -> Any:
    return _mask(x.arithmetic, x.parts[0].isinf(), x.parts[1].isfinite())


@Rounding.rule(aten.isfinite.default)
def _isfinite(x: RoundingTensor) -> Any:
    return _mask(x.arithmetic, x.parts[0].isfinite(), x.parts[1].isfinite())


@Rounding.rule(aten.sgn.default, aten.sign.default)
def _sign(x: RoundingTensor) -> Any:
    value, bound = x.parts
    settled = (value.abs() > 2 * SAFE * bound) | ((value == 0) & (bound == 0))
    open_ = torch.where(settled, 0.0, torch.where(bound.isfinite(), 2.0, math.inf))
    return x.arithmetic.result(value.sign(), open_, x.dtype)


@Rounding.rule(aten._local_scalar_dense.default)
def _item(x: RoundingTensor) -> Any:
    if not bool((x.parts[1] == 0).all()):
        raise unsupported("aten._local_scalar_dense", OPEN)
    value = x.parts[0].item()
    return bool(value) if x.dtype is torch.bool else value if x.dtype.is_floating_point else int(value)


@Rounding.rule(aten.is_nonzero.default)
def _is_nonzero(x: RoundingTensor) -> bool:
    return bool(_item(ne(x, 0) if x.dtype is not torch.bool else x))


@Rounding.rule(aten.equal.default)
def _equal(a: Operand, b: Operand) -> bool:
    return a.shape == b.shape and bool(_item(_all_(_eq(a, b))))


def settled(x: Any) -> Any:
    """A mask as a plain tensor, if every element of it is certain."""
    if not isinstance(x, RoundingTensor):
        return x
    value, sure = x.parts[0], x.parts[1] == 0
    if not bool(sure.all()):
        raise unsupported("aten.index", OPEN)
    return value.to(x.dtype)
