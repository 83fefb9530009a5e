"""Functions of which nothing is known but that they are functions: equal arguments, equal values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from equivalence.arithmetic.field.operands import Operand, field_of, floating, is_number
from equivalence.arithmetic.field.ring import add, div, mul, reciprocal, rsub, sub, total
from equivalence.arithmetic.field.tensor import Field, FieldTensor
from equivalence.arithmetic.stacked import Rule, unsupported

if TYPE_CHECKING:
    from collections.abc import Sequence

aten = torch.ops.aten

UNARY = [
    "sigmoid",
    "tanh",
    "exp",
    "exp2",
    "expm1",
    "log",
    "log2",
    "log10",
    "log1p",
    "erf",
    "erfc",
    "erfinv",
    "sin",
    "cos",
    "tan",
    "asin",
    "acos",
    "atan",
    "sinh",
    "cosh",
    "asinh",
    "acosh",
    "atanh",
    "lgamma",
    "digamma",
    "floor",
    "ceil",
    "round",
    "trunc",
    "frac",
    "sinc",
]


def _unary(name: str) -> Rule:
    def rule(x: FieldTensor) -> Any:
        parts, bound = x.arithmetic.random(name, (x.parts, x.state))
        return x.arithmetic.wrap(parts, bound.copy(), floating(x.dtype))

    return rule


for _name in UNARY:
    Field.rule(getattr(aten, _name).default)(_unary(_name))
exp, log, sigmoid = _unary("exp"), _unary("log"), _unary("sigmoid")


def _binary(name: str) -> Rule:
    def rule(a: Operand, b: Operand) -> Any:
        field = field_of(a, b)
        first, second = field.constant(a), field.constant(b)
        rank = max(first.dim(), second.dim())
        left, right = (field.modulus.broadcastable(t.parts, rank) for t in (first, second))
        shape = torch.broadcast_shapes(left.shape, right.shape)  # type: ignore[no-untyped-call]
        left, right = left.expand(shape), right.expand(shape)
        parts, bound = field.random(name, (left, first.state), (right, second.state))
        return field.wrap(parts, bound.copy(), torch.promote_types(first.dtype, second.dtype))

    return rule


for _name in ("atan2", "hypot", "fmod", "remainder"):
    Field.rule(*(getattr(getattr(aten, _name), o) for o in getattr(aten, _name).overloads() if "out" not in o))(
        _binary(_name)
    )
Field.rule(aten.pow.Tensor_Tensor, aten.pow.Scalar)(_binary("pow"))


@Field.rule(aten.silu.default)
def silu(x: FieldTensor) -> Any:
    return mul(x, sigmoid(x))


@Field.rule(aten.sigmoid_backward.default)
def sigmoid_backward(grad: FieldTensor, output: FieldTensor) -> Any:
    return mul(grad, mul(output, rsub(output, 1)))


@Field.rule(aten.tanh_backward.default)
def tanh_backward(grad: FieldTensor, output: FieldTensor) -> Any:
    return mul(grad, rsub(mul(output, output), 1))


@Field.rule(aten._softmax.default)
def softmax(x: FieldTensor, dim: int, half_to_float: bool) -> Any:
    """exp(x) / sum exp(x): the maximum that a float implementation subtracts cancels for real numbers."""
    powers = exp(x)
    return mul(powers, reciprocal(total(powers, dim, True)))


@Field.rule(aten._log_softmax.default)
def log_softmax(x: FieldTensor, dim: int, half_to_float: bool) -> Any:
    return sub(x, log(total(exp(x), dim, True)))


@Field.rule(aten._softmax_backward_data.default)
def softmax_backward(grad: FieldTensor, output: FieldTensor, dim: int, input_dtype: Any) -> Any:
    weighted = mul(grad, output)
    return sub(weighted, mul(output, total(weighted, dim, True)))


@Field.rule(aten.logsumexp.default)
def logsumexp(x: FieldTensor, dim: Sequence[int], keepdim: bool = False) -> Any:
    return log(total(exp(x), dim, keepdim))


@Field.rule(aten.softplus.default)
def softplus(x: FieldTensor, beta: Operand = 1, threshold: Operand = 20) -> Any:
    """A function of beta x, namely log(1 + exp(t)) up to the threshold and t beyond, over beta."""
    if not is_number(beta):
        raise unsupported("aten.softplus", "beta is no number")
    scaled = x if beta == 1 else mul(x, beta)
    parts, bound = x.arithmetic.random(f"softplus/{threshold}", (scaled.parts, scaled.state))
    value = x.arithmetic.wrap(parts, bound.copy(), x.dtype)
    return value if beta == 1 else div(value, beta)


@Field.rule(aten.softplus_backward.default)
def softplus_backward(grad: FieldTensor, x: FieldTensor, beta: Operand, threshold: Operand) -> Any:
    scaled = x if beta == 1 else mul(x, beta)
    parts, bound = x.arithmetic.random(f"softplus'/{threshold}", (scaled.parts, scaled.state))
    return mul(grad, x.arithmetic.wrap(parts, bound.copy(), x.dtype))


@Field.rule(aten.log_sigmoid_forward.default)
def log_sigmoid(x: FieldTensor) -> Any:
    return _unary("log_sigmoid")(x), add(x, 0)


@Field.rule(aten.log_sigmoid_backward.default)
def log_sigmoid_backward(grad: FieldTensor, x: FieldTensor, buffer: Any) -> Any:
    return mul(grad, _unary("log_sigmoid'")(x))
