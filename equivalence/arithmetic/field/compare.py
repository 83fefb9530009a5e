"""Comparisons give masks of dtype bool that are polynomials in step(t) and zero(t), t the difference of both sides.

zero(t) is a random even function with zero(0) = 1. t > 0 is step(t) - zero(t) / 2 and t >= 0 is step(t) + zero(t) / 2:
both are true for the actual functions everywhere, and they differ, as they must: relu(x) > 0 and relu(x) >= 0 are
not the same. `masks` says when the second term drops out.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from equivalence.arithmetic.field import masks, origin
from equivalence.arithmetic.field.bound import Bound
from equivalence.arithmetic.field.operands import Operand, as_number, field_of, is_number, pair
from equivalence.arithmetic.field.ring import add, mul, rsub, sub
from equivalence.arithmetic.field.step import HALF, STEP, absolute, gate
from equivalence.arithmetic.field.sums import index_put_accumulated
from equivalence.arithmetic.field.tensor import Field, FieldTensor
from equivalence.arithmetic.movement import moved
from equivalence.arithmetic.stacked import StackedTensor, unsupported

aten = torch.ops.aten
MASK = STEP + Bound(degree=1, high=0.0, low=-1.0)


def _difference(a: Operand, b: Operand) -> FieldTensor:
    b = as_number(b)
    if type(a) is FieldTensor and is_number(b) and b == 0:
        return a
    difference: FieldTensor = sub(a, b)
    return difference


def _zero(t: FieldTensor) -> tuple[Tensor, Tensor]:
    """zero(t) (K, …) and whether t is the zero expression (1, …), as 0 or 1."""
    field = t.arithmetic
    sign, value = field.signed("zero", t.parts, t.state)
    vanishes = sign == 0
    return torch.where(vanishes, 1.0, value), vanishes.to(torch.float64)


def _mask(
    t: FieldTensor, stepped: Tensor | None, weight: Fraction | int, threshold: masks.Threshold | None = None
) -> Any:
    """The mask `stepped` + weight · zero(t)."""
    field = t.arithmetic
    reduce_ = field.modulus.reduce_
    zero, vanishes = _zero(t)
    half, _ = field.scalar(weight, t.parts.dim() - 1)
    corrected, generic = zero * half, vanishes * half
    if stepped is not None:
        corrected += stepped
        generic += stepped
    corrected, generic = reduce_(corrected), reduce_(generic)
    backward = masks.in_backward()
    result = field.wrap(generic if backward else corrected, MASK.copy(), torch.bool)
    result.remember(masks.COMPARISON, generic, masks.argument_snapshot(t), note=threshold)
    return result


def _threshold(a: Operand, b: Operand) -> masks.Threshold | None:
    b = as_number(b)
    if type(a) is not FieldTensor or not is_number(b):
        return None
    a.arithmetic.books.query(0, (a.state,))
    return masks.Threshold(a.parts.clone(), Fraction(b), True)


@Field.rule(aten.gt)
def gt(a: Operand, b: Operand) -> Any:
    t = _difference(a, b)
    return _mask(t, gate(t)[0], -HALF, _threshold(a, b))


@Field.rule(aten.ge)
def ge(a: Operand, b: Operand) -> Any:
    t = _difference(a, b)
    return _mask(t, gate(t)[0], HALF, _threshold(a, b))


def _negated(mask: FieldTensor) -> Any:
    """1 - mask, with the same for what it remembers."""
    result = mask.arithmetic.wrap(rsub(mask, 1).parts, MASK.copy(), torch.bool)
    known = mask.known(masks.COMPARISON)
    if known is not None and mask.companion is not None:
        one, _ = mask.arithmetic.scalar(1, known[0].dim() - 1)
        generic = mask.arithmetic.modulus.reduce_(one - known[0])
        old = mask.companion.note
        threshold = None if old is None else old._replace(above=not old.above)
        result.remember(masks.COMPARISON, generic, known[1], note=threshold)
    return result


@Field.rule(aten.lt)
def lt(a: Operand, b: Operand) -> Any:
    return _negated(ge(a, b))


@Field.rule(aten.le)
def le(a: Operand, b: Operand) -> Any:
    return _negated(gt(a, b))


@Field.rule(aten.eq)
def eq(a: Operand, b: Operand) -> Any:
    return _mask(_difference(a, b), None, 1)


@Field.rule(aten.ne)
def ne(a: Operand, b: Operand) -> Any:
    return _negated(eq(a, b))


def _is_mask(x: Any) -> bool:
    return isinstance(x, Tensor) and x.dtype is torch.bool


@Field.rule(aten.logical_not.default, aten.bitwise_not.default)
def logical_not(x: FieldTensor) -> Any:
    if not _is_mask(x):
        return eq(x, 0)
    return _negated(x)


def _as_mask(x: Any) -> Any:
    return x if _is_mask(x) else ne(x, 0)


def _generic_in_backward(x: Any) -> Any:
    known = x.known(masks.COMPARISON) if type(x) is FieldTensor and masks.in_backward() else None
    return x if known is None else x.arithmetic.wrap(known[0], x.state.copy(), torch.bool)


def _cover(a: Any, b: Any) -> bool:
    """Whether a or b is always true, which makes a and b their sum minus 1: clamp's derivative is such a mask."""
    first, second = masks.threshold_of(a), masks.threshold_of(b)
    return first is not None and second is not None and first.cover(second, a.arithmetic.books)


@Field.rule(aten.logical_and.default, aten.bitwise_and.Tensor)
def logical_and(a: Any, b: Any) -> Any:
    a, b = _as_mask(a), _as_mask(b)
    cover = _cover(a, b)
    a, b = _generic_in_backward(a), _generic_in_backward(b)
    result = sub(add(a, b), 1) if cover else mul(a, b)
    return result.arithmetic.wrap(result.parts, result.state, torch.bool)


@Field.rule(aten.logical_or.default, aten.bitwise_or.Tensor)
def logical_or(a: Any, b: Any) -> Any:
    a, b = _generic_in_backward(_as_mask(a)), _generic_in_backward(_as_mask(b))
    result = sub(add(a, b), mul(a, b))
    return result.arithmetic.wrap(result.parts, result.state, torch.bool)


@Field.rule(aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf, aten.where.Scalar)
def where(mask: Any, a: Operand, b: Operand) -> Any:
    """B + mask · (a - b); a plain mask selects without computing."""
    if type(mask) is FieldTensor:
        a = a if type(a) is FieldTensor else mask.arithmetic.constant(a)
        return add(mul(mask, _difference(a, b)), b)
    field = field_of(a, b)
    _, pa, pb, ba, bb, dtype = pair(a, b)
    dims = max(pa.dim() - 1, pb.dim() - 1, mask.dim())
    broadcast = field.modulus.broadcastable
    plain = mask.to("cpu")
    return field.wrap(torch.where(plain, broadcast(pa, dims), broadcast(pb, dims)), ba.union(bb), dtype)


@Field.rule(aten.hardshrink_backward.default)
def hardshrink_backward(grad: FieldTensor, x: FieldTensor, lambd: Operand) -> Any:
    return mul(grad, gt(absolute(x), lambd))


@Field.rule(aten.masked_fill.Scalar, aten.masked_fill.Tensor)
def masked_fill(x: Any, mask: Any, value: Operand) -> Any:
    return where(mask, x.arithmetic.constant(value) if type(mask) is not FieldTensor else value, x)


@Field.rule(aten.index_put.default)
def index_put(x: Any, indices: Any, values: Any, accumulate: bool = False) -> Any:
    """x[mask] = value with one value is a masked fill; other indices must be plain."""
    masked = [i for i in indices if isinstance(i, StackedTensor)]
    if not masked:
        if accumulate:
            return index_put_accumulated(x, indices, values)
        return moved(aten.index_put.default, (x, indices, values), {})
    if len(indices) != 1 or accumulate or not (isinstance(values, Tensor) and values.numel() == 1):
        raise unsupported("aten.index_put", "which elements are written depends on a value; use torch.where")
    mask: Any = masked[0]
    while mask.dim() < x.dim():
        mask = mask.unsqueeze(-1)
    return where(mask, x.arithmetic.constant(values.reshape(())), x)


@Field.rule(aten._to_copy.default)
def to_copy(x: FieldTensor, *, dtype: torch.dtype | None = None, **_layout: Any) -> Any:
    """To an equally or more precise dtype nothing changes; to a coarser one rounding is a function like any other."""
    field = x.arithmetic
    target = dtype or x.dtype
    if x.dtype is torch.bool or target is x.dtype:
        result = field.wrap(x.parts.clone(), x.state.copy(), target)
        if x.companion is not None and x.companion.version == x.state.version:
            result.remember(x.companion.kind, *x.companion.tensors, note=x.companion.note)
        return result
    if target is torch.bool:
        return ne(x, 0)
    if not target.is_floating_point:
        raise unsupported("aten._to_copy", f"a cast from {x.dtype} to {target} discards the value's fraction")
    own, base = torch.finfo(target), torch.finfo(field.dtype)
    if own.eps <= base.eps and own.max >= base.max:
        result = field.wrap(x.parts.clone(), x.state.copy(), target)
        result.origin = origin.current(x)
        return result
    parts, bound = field.random(f"round/{target}", (x.parts, x.state))
    return field.wrap(parts, bound.copy(), target)
