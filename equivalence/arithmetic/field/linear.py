"""Matrix products: one batched float64 product over primes (times batches), reduced at the end."""

from __future__ import annotations

from typing import Any

import torch

from equivalence.arithmetic.field.operands import Operand, field_of
from equivalence.arithmetic.field.ring import add, mul
from equivalence.arithmetic.field.tensor import Field

aten = torch.ops.aten


@Field.rule(aten.mm.default)
def mm(a: Operand, b: Operand) -> Any:
    field = field_of(a, b)
    a, b = field.constant(a), field.constant(b)
    parts = field.modulus.bmm(a.parts, b.parts)
    return field.wrap(parts, (a.state * b.state).summed(a.parts.shape[-1]), a.dtype)


@Field.rule(aten.bmm.default)
def bmm(a: Operand, b: Operand) -> Any:
    field = field_of(a, b)
    a, b = field.constant(a), field.constant(b)
    batch = a.parts.shape[:2]
    parts = field.modulus.bmm(a.parts.flatten(0, 1), b.parts.flatten(0, 1))
    return field.wrap(parts.view(*batch, *parts.shape[1:]), (a.state * b.state).summed(a.parts.shape[-1]), a.dtype)


@Field.rule(aten.addmm.default)
def addmm(c: Operand, a: Operand, b: Operand, *, beta: Operand = 1, alpha: Operand = 1) -> Any:
    return _plus(c, mm(a, b), beta, alpha)


@Field.rule(aten.baddbmm.default)
def baddbmm(c: Operand, a: Operand, b: Operand, *, beta: Operand = 1, alpha: Operand = 1) -> Any:
    return _plus(c, bmm(a, b), beta, alpha)


def _plus(c: Operand, product: Any, beta: Operand, alpha: Operand) -> Any:
    product = product if alpha == 1 else mul(product, alpha)
    if beta == 0:
        return product
    return add(c if beta == 1 else mul(product.arithmetic.constant(c), beta), product)


@Field.rule(aten.mv.default)
def mv(a: Operand, b: Operand) -> Any:
    return mm(a, field_of(a, b).constant(b).unsqueeze(-1)).squeeze(-1)


@Field.rule(aten.dot.default)
def dot(a: Operand, b: Operand) -> Any:
    field = field_of(a, b)
    return mm(field.constant(a).unsqueeze(0), field.constant(b).unsqueeze(-1)).reshape(())
