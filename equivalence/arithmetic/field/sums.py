"""Operations that only add elements up, such as the adjoints of those that copy them: float64 adds exactly."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from equivalence.arithmetic.field.operands import field_of
from equivalence.arithmetic.field.tensor import Field, FieldTensor
from equivalence.arithmetic.movement import on_each_part

if TYPE_CHECKING:
    from torch._ops import OpOverload

    from equivalence.arithmetic.stacked import Rule

aten = torch.ops.aten

ADDING = [
    "reflection_pad1d_backward",
    "reflection_pad2d_backward",
    "reflection_pad3d_backward",
    "replication_pad1d_backward",
    "replication_pad2d_backward",
    "replication_pad3d_backward",
    "upsample_nearest1d_backward",
    "upsample_nearest2d_backward",
    "upsample_nearest3d_backward",
    "unfold_backward",
    "col2im",
    "index_add",
    "scatter_add",
    "trace",
]


def _adding(func: OpOverload) -> Rule:
    def rule(*args: Any, **kwargs: Any) -> Any:
        field = field_of(*args)
        args = tuple(_embedded(field, a) for a in args)
        parts, first = on_each_part(func, args, kwargs)
        bounds = field.joined([a for a in args if isinstance(a, FieldTensor)])
        terms = sum(math.prod(a.shape) for a in args if isinstance(a, FieldTensor))
        return field.wrap(field.modulus.reduce_(parts), bounds.summed(terms), first.dtype)

    return rule


def _embedded(field: Field, a: Any) -> Any:
    plain = isinstance(a, torch.Tensor) and not isinstance(a, FieldTensor)
    return field.constant(a) if plain and a.is_floating_point() else a


for _name in ADDING:
    _op = getattr(aten, _name).default
    Field.rule(_op)(_adding(_op))


def index_put_accumulated(x: Any, indices: Any, values: Any) -> Any:
    field = field_of(x, values)
    target, added = field.constant(x), field.constant(values)
    parts, _ = on_each_part(aten.index_put.default, (target, indices, added, True), {})
    bound = target.state + added.state.summed(max(1, added.numel()))
    return field.wrap(field.modulus.reduce_(parts), bound, target.dtype)
