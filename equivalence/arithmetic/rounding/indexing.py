"""Reading and writing by position: positions must be certain, repeated writes that add are sums."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from equivalence.arithmetic.rounding.compare import settled
from equivalence.arithmetic.rounding.elementary import add
from equivalence.arithmetic.rounding.operands import Operand, as_number, context_of
from equivalence.arithmetic.rounding.reduction import linear
from equivalence.arithmetic.rounding.tensor import Rounding, RoundingTensor
from equivalence.arithmetic.stacked import unsupported

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch._ops import OpOverload

aten = torch.ops.aten


def _positions(indices: Sequence[Any]) -> list[Any]:
    """Masks as positions, so that what is left is a plain gather."""
    plain: list[Any] = []
    for index in indices:
        index = settled(index)
        if isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8):
            plain.extend(index.nonzero(as_tuple=True))
        else:
            plain.append(index)
    return plain


@Rounding.rule(aten.index.Tensor)
def _index(x: Tensor, indices: Sequence[Any]) -> Any:
    plain = _positions(indices)
    if not isinstance(x, RoundingTensor):
        return aten.index.Tensor(x, plain)
    parts = torch.stack([aten.index.Tensor(p, plain) for p in x.parts])
    return x.arithmetic.wrap(parts, x.arithmetic.joined([x]), x.dtype)


@Rounding.rule(aten.masked_select.default)
def _masked_select(x: Tensor, mask: Tensor) -> Any:
    plain = settled(mask)
    shape = torch.broadcast_shapes(x.shape, plain.shape)  # type: ignore[no-untyped-call]
    return _index(x.expand(shape), [plain.expand(shape)])


@Rounding.rule(aten.index_put.default, aten._unsafe_index_put.default)
def _index_put(x: Any, indices: Sequence[Any], values: Any, accumulate: bool = False) -> Any:
    plain = _positions(indices)
    context = context_of(x, values) if isinstance(x, RoundingTensor) else context_of(values)
    x, values = context.constant(x), context.constant(values)
    if not accumulate:
        both = zip(x.parts, values.parts, strict=True)
        parts = torch.stack([aten.index_put.default(p, plain, v) for p, v in both])
        return context.wrap(parts, context.joined([x, values]), x.dtype)
    terms = max((i.numel() for i in plain if isinstance(i, Tensor)), default=1)

    def put(t: Tensor) -> Tensor:
        base = t.new_zeros(x.shape)
        result: Tensor = aten.index_put.default(base, plain, t, True)
        return result

    return add(x, linear(put, values, max(1, terms), x.dtype))


def _scattering(op: OpOverload) -> None:
    """Writing a number: its value and its error to the two parts."""

    def rule(x: RoundingTensor, dim: int, index: Tensor, value: Operand) -> Any:
        number = x.arithmetic.constant(as_number(value), x.dtype)
        parts = [op(p, dim, index, float(v)) for p, v in zip(x.parts, number.parts, strict=True)]
        return x.arithmetic.wrap(torch.stack(parts), x.arithmetic.joined([x, number]), x.dtype)

    Rounding.rule(op)(rule)


_scattering(aten.scatter.value)
_scattering(aten.index_fill.int_Scalar)


@Rounding.rule(aten.scatter.src)
def _scatter(x: Any, dim: int, index: Tensor, source: Any) -> Any:
    context = context_of(x, source)
    x, source = context.constant(x), context.constant(source)
    both = zip(x.parts, source.parts, strict=True)
    parts = torch.stack([aten.scatter.src(p, dim, index, s) for p, s in both])
    return context.wrap(parts, context.joined([x, source]), x.dtype)


def _adding(op: OpOverload) -> None:
    def rule(x: RoundingTensor, dim: int, index: Tensor, source: Any, **options: Any) -> Any:
        source = x.arithmetic.constant(source)

        def put(t: Tensor) -> Tensor:
            result: Tensor = op(t.new_zeros(x.shape), dim, index, t)
            return result

        result = add(x, linear(put, source, max(1, index.numel()), x.dtype))
        alpha = options.get("alpha", 1)
        if alpha != 1:
            raise unsupported(op, "alpha other than 1 has no rule")
        return result

    Rounding.rule(op)(rule)


_adding(aten.scatter_add.default)
_adding(aten.index_add.default)
