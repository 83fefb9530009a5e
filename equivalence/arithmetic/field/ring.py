"""Ring operations: exact, whatever the elements stand for."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from equivalence.arithmetic.field import origin
from equivalence.arithmetic.field.masks import meets_its_zero
from equivalence.arithmetic.field.modulus import EXACT, RESIDUE
from equivalence.arithmetic.field.operands import (
    Operand,
    as_number,
    field_of,
    floating,
    is_number,
    pair,
)
from equivalence.arithmetic.field.tensor import Field, FieldTensor
from equivalence.arithmetic.stacked import unsupported

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

aten = torch.ops.aten


@Field.rule(aten.add.Tensor, aten.add.Scalar)
def add(a: Operand, b: Operand, alpha: Operand = 1) -> Any:
    return _sum(a, b, alpha, torch.add)


@Field.rule(aten.sub.Tensor, aten.sub.Scalar)
def sub(a: Operand, b: Operand, alpha: Operand = 1) -> Any:
    return _sum(a, b, alpha, torch.sub)


def _sum(a: Operand, b: Operand, alpha: Operand, op: Callable[[Tensor, Tensor], Tensor]) -> Any:
    if alpha != 1:
        b = mul(b, alpha) if isinstance(b, FieldTensor) else b * alpha
    both = type(a) is FieldTensor and type(b) is FieldTensor
    if both and a.dim() == b.dim() and a.dtype is b.dtype:
        size = (a.size_of_raw or RESIDUE) + (b.size_of_raw or RESIDUE)
        if size > EXACT:
            size = 2 * RESIDUE
            a, b = a.reduced(), b.reduced()
        field = a.arithmetic
        result = field.wrap(op(a.raw, b.raw), a.state + b.state, a.dtype, size)
    else:
        field, pa, pb, ba, bb, dtype = pair(a, b)
        result = field.wrap(op(pa, pb), ba + bb, dtype, 2 * RESIDUE)
    if both and (a.origin or b.origin or a is b):
        result.origin = origin.of_sum(a, b)
    return result


@Field.rule(aten.rsub.Tensor, aten.rsub.Scalar)
def rsub(a: Operand, b: Operand, alpha: Operand = 1) -> Any:
    return sub(b, a, alpha) if is_number(alpha) and alpha == 1 else sub(b, mul(a, alpha))


@Field.rule(aten.mul.Tensor, aten.mul.Scalar)
def mul(a: Operand, b: Operand) -> Any:
    if type(a) is FieldTensor and type(b) is FieldTensor:
        field, pa, pb, ba, bb, dtype = pair(a, b)
        if a.companion is not None or b.companion is not None:
            pa, pb = meets_its_zero(a, b, pa), meets_its_zero(b, a, pb)
        result = field.wrap(field.modulus.mul(pa, pb), ba * bb, dtype)
        if pa.shape == pb.shape:
            result.origin = origin.of_product(a, b)
        return result
    field, pa, pb, ba, bb, dtype = pair(a, b)
    result = field.wrap(field.modulus.mul(pa, pb), ba * bb, dtype)
    x, factor = (a, as_number(b)) if type(a) is FieldTensor else (b, as_number(a))
    if is_number(factor):
        result.origin = origin.of_multiple(x, factor == 0)
    return result


@Field.rule(aten.neg.default)
def neg(x: FieldTensor) -> Any:
    result = x.arithmetic.wrap(x.parts.neg(), x.state.copy(), x.dtype)
    result.origin = origin.of_multiple(x, False)
    return result


@Field.rule(aten.div.Tensor, aten.div.Scalar)
def div(a: Operand, b: Operand) -> Any:
    b = as_number(b)
    field = field_of(a, b)
    if not is_number(b):
        return mul(a, reciprocal(field.constant(b)))
    value, bound = field.inverse(b, a.parts.dim() - 1)
    result = field.wrap(field.modulus.mul(a.parts, value), a.state * bound, floating(a.dtype))
    result.origin = origin.of_multiple(a, False)
    return result


@Field.rule(aten.div.Tensor_mode, aten.div.Scalar_mode)
def div_mode(a: Operand, b: Operand, *, rounding_mode: str | None = None) -> Any:
    if rounding_mode is not None:
        raise unsupported("aten.div", f"rounding_mode={rounding_mode!r} is no ring operation")
    return div(a, b)


@Field.rule(aten.reciprocal.default)
def reciprocal(x: FieldTensor) -> Any:
    """1 / sqrt(t) is rsqrt(t): a square root brings it along."""
    known = x.known("sqrt")
    dtype = floating(x.dtype)
    if known is not None:
        return x.arithmetic.wrap(known[0], x.state.copy(), dtype)
    parts, bound = x.arithmetic.random("reciprocal", (x.parts, x.state))
    return x.arithmetic.wrap(parts, bound.copy(), dtype)


@Field.rule(aten.sqrt.default)
def sqrt(x: FieldTensor) -> Any:
    """T · rsqrt(t)."""
    field = x.arithmetic
    inverse, bound = field.random("rsqrt", (x.parts, x.state))
    result = field.wrap(field.modulus.mul(x.parts, inverse), x.state * bound, floating(x.dtype))
    result.remember("sqrt", inverse)
    return result


@Field.rule(aten.rsqrt.default)
def rsqrt(x: FieldTensor) -> Any:
    parts, bound = x.arithmetic.random("rsqrt", (x.parts, x.state))
    return x.arithmetic.wrap(parts, bound.copy(), floating(x.dtype))


@Field.rule(aten.pow.Tensor_Scalar)
def power(x: FieldTensor, exponent: Operand) -> Any:
    exact = Fraction(exponent)
    if exact.denominator == 1:
        return integer_power(x if exact >= 0 else reciprocal(x), abs(int(exact)))
    if exact == Fraction(1, 2):
        return sqrt(x)
    if exact == Fraction(-1, 2):
        return rsqrt(x)
    parts, bound = x.arithmetic.random(f"pow/{exact}", (x.parts, x.state))
    return x.arithmetic.wrap(parts, bound.copy(), floating(x.dtype))


def integer_power(x: FieldTensor, exponent: int) -> Any:
    field = x.arithmetic
    if exponent == 0:
        return field.wrap(torch.ones_like(x.parts), x.state**0, x.dtype)
    result, square, bits = None, x.parts, exponent
    while True:
        if bits & 1:
            result = square if result is None else field.modulus.mul(result, square)
        bits >>= 1
        if not bits:
            break
        square = field.modulus.mul(square, square)
    wrapped = field.wrap(square if result is None else result, x.state**exponent, x.dtype)
    if exponent == 1:
        wrapped = field.wrap(x.parts.clone(), x.state.copy(), x.dtype)
    wrapped.origin = origin.Origin(None, origin.divisors_of(x))
    return wrapped


@Field.rule(aten.square.default)
def square(x: FieldTensor) -> Any:
    return integer_power(x, 2)


def _dims(x: FieldTensor, dim: Any) -> list[int]:
    rank = x.parts.dim() - 1
    if dim is None or (not isinstance(dim, int) and len(dim) == 0):
        return list(range(1, rank + 1))
    return [d % rank + 1 for d in ((dim,) if isinstance(dim, int) else dim)] if rank else []


def _count(x: FieldTensor, dims: Sequence[int]) -> int:
    terms = 1
    for d in dims:
        terms *= x.parts.shape[d]
    return terms


@Field.rule(aten.sum.dim_IntList, aten.sum.default)
def total(x: FieldTensor, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Any:
    field = x.arithmetic
    dims = _dims(x, dim)
    parts = field.modulus.sum(x.parts, dims, keepdim) if dims else x.parts.clone()
    kind = dtype or (x.dtype if x.dtype.is_floating_point else torch.int64)
    return field.wrap(parts, x.state.summed(_count(x, dims)), kind)


@Field.rule(aten.mean.dim, aten.mean.default)
def mean(x: FieldTensor, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Any:
    return div(total(x, dim, keepdim, dtype=dtype), _count(x, _dims(x, dim)))


@Field.rule(aten.var.correction)
def var(x: FieldTensor, dim: Any = None, *, correction: Any = None, keepdim: bool = False) -> Any:
    return var_mean(x, dim, correction=correction, keepdim=keepdim)[0]


@Field.rule(aten.var_mean.correction)
def var_mean(x: FieldTensor, dim: Any = None, *, correction: Any = None, keepdim: bool = False) -> Any:
    kept = mean(x, dim, True)
    centred = sub(x, kept)
    freedom = Fraction(_count(x, _dims(x, dim))) - Fraction(1 if correction is None else correction)
    variance = div(total(square(centred), dim, keepdim), freedom)
    return variance, (kept if keepdim else mean(x, dim))


@Field.rule(aten.prod.dim_int, aten.prod.default)
def prod(x: FieldTensor, dim: int | None = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Any:
    if dim is None:
        return prod(x.reshape(-1), 0, dtype=dtype)
    result: Any = None
    for slice_ in x.unbind(dim):
        result = slice_ if result is None else mul(result, slice_)
    result = integer_power(result, 1) if result is not None else x.new_ones(())
    return result.unsqueeze(dim) if keepdim else result


@Field.rule(aten.cumprod.default)
def cumprod(x: FieldTensor, dim: int, *, dtype: torch.dtype | None = None) -> Any:
    products: list[Any] = []
    for slice_ in x.unbind(dim):
        products.append(mul(products[-1], slice_) if products else slice_)
    return torch.stack(products, dim) if products else x.clone()


@Field.rule(aten.cumsum.default)
def cumsum(x: FieldTensor, dim: int, *, dtype: torch.dtype | None = None) -> Any:
    d = dim + 1 if dim >= 0 else dim
    parts = x.arithmetic.modulus.reduce_(x.parts.cumsum(d))
    return x.arithmetic.wrap(parts, x.state.summed(max(1, x.parts.shape[d])), dtype or x.dtype)


@Field.rule(aten.addcmul.default)
def addcmul(x: Operand, a: Operand, b: Operand, *, value: Operand = 1) -> Any:
    return add(x, mul(mul(a, b), value) if value != 1 else mul(a, b))


@Field.rule(aten.addcdiv.default)
def addcdiv(x: Operand, a: Operand, b: Operand, *, value: Operand = 1) -> Any:
    quotient = div(a, b)
    return add(x, mul(quotient, value) if value != 1 else quotient)


@Field.rule(aten.lerp.Scalar, aten.lerp.Tensor)
def lerp(start: Operand, end: Operand, weight: Operand) -> Any:
    return add(start, mul(sub(end, start), weight))
