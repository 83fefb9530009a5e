"""Adjoints of moves: every cell sums the gradients of its copies."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from equivalence.arithmetic.rounding.reduction import linear
from equivalence.arithmetic.rounding.tensor import Rounding, RoundingTensor

aten = torch.ops.aten


def _padding_adjoint(name: str, spatial: int) -> None:
    op = getattr(aten, f"{name}_pad{spatial}d_backward").default

    def rule(grad: RoundingTensor, x: Tensor, padding: Any) -> Any:
        terms = math.prod(1 + max(padding[2 * i], 0) + max(padding[2 * i + 1], 0) for i in range(spatial))
        return linear(lambda t: op(t, t.new_empty(x.shape), padding), grad, terms, grad.dtype)

    Rounding.rule(op)(rule)


def _nearest_adjoint(spatial: int) -> None:
    op = getattr(aten, f"upsample_nearest{spatial}d_backward").default

    def rule(grad: RoundingTensor, output: Any, size: Any, *scales: Any) -> Any:
        terms = math.prod(-(-m // n) + 1 for m, n in zip(output, size[2:], strict=True))
        return linear(lambda t: op(t, output, size, *scales), grad, terms, grad.dtype)

    Rounding.rule(op)(rule)


for _spatial in (1, 2, 3):
    _padding_adjoint("reflection", _spatial)
    _padding_adjoint("replication", _spatial)
    _nearest_adjoint(_spatial)


@Rounding.rule(aten.col2im.default)
def _col2im(x: RoundingTensor, size: Any, kernel: Any, *geometry: Any) -> Any:
    return linear(lambda t: aten.col2im(t, size, kernel, *geometry), x, math.prod(kernel), x.dtype)


@Rounding.rule(aten.unfold_backward.default)
def _unfold_backward(grad: RoundingTensor, shape: Any, dim: int, size: int, step: int) -> Any:
    return linear(lambda t: aten.unfold_backward(t, shape, dim, size, step), grad, size, grad.dtype)
