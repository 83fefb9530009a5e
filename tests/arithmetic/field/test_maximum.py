"""Maxima: functions of a window's members, whatever their order, place or padding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from equivalence.arithmetic.errors import UnsupportedOperation
from equivalence.arithmetic.field import Field, FieldTensor


@pytest.fixture
def field() -> Field:
    return Field(6, 8)


def run(field: Field, function: Any, shape: tuple[int, ...]) -> tuple[FieldTensor, FieldTensor]:
    x = field.variables(shape, "x").requires_grad_()
    y = function(x)
    (grad,) = torch.autograd.grad(y, x, field.variables((y.numel(),), "c").view(y.shape))
    return y.detach(), grad


PAIRS = {
    "window_is_everything": (
        lambda x: F.max_pool2d(x, (3, 4)).flatten(1), lambda x: x.amax((2, 3)), (2, 3, 3, 4),
    ),
    "padding_is_no_member": (
        lambda x: F.max_pool2d(x, 3, 2, 1)[..., :1, :1], lambda x: F.max_pool2d(x, 2, 2)[..., :1, :1], (1, 2, 5, 5),
    ),
    "order_does_not_matter": (
        lambda x: F.max_pool2d(x, 2), lambda x: F.max_pool2d(x.flip(-1, -2), 2).flip(-1, -2), (1, 2, 4, 6),
    ),
    "window_of_one": (lambda x: F.max_pool2d(x, 1), lambda x: x * 1, (1, 2, 3, 3)),
    "stride_of_one": (lambda x: F.max_pool2d(x, 1, 2), lambda x: x[..., ::2, ::2], (1, 2, 5, 4)),
    "one_dimension": (
        lambda x: F.max_pool1d(x, 3, 2, 1), lambda x: F.max_pool2d(x[:, :, None], (1, 3), 2, (0, 1))[:, :, 0],
        (2, 3, 7),
    ),
    "three_dimensions": (
        lambda x: F.max_pool3d(x, (1, 2, 2)), lambda x: F.max_pool2d(x.flatten(0, 1), 2)[None], (1, 2, 3, 4, 4),
    ),
    "ceil_mode": (
        lambda x: F.max_pool2d(x, 2, ceil_mode=True)[..., -1:], lambda x: F.max_pool2d(x[..., -1:], (2, 1)),
        (1, 2, 4, 5),
    ),
    "dilation": (
        lambda x: F.max_pool2d(x, (1, 2), 1, 0, (1, 2)), lambda x: torch.stack([x[..., :-2], x[..., 2:]]).amax(0),
        (1, 2, 2, 5),
    ),
    "batch_position": (
        lambda x: F.max_pool2d(x, 2)[1:], lambda x: F.max_pool2d(x[1:], 2), (2, 2, 4, 4),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_equal_windows_have_equal_maxima(name: str, field: Field) -> None:
    first, second, shape = PAIRS[name]
    a, a_grad = run(field, first, shape)
    b, b_grad = run(field, second, shape)
    assert FieldTensor.equal(a, b)
    if "dilation" not in name and "everything" not in name:  # amax spreads its gradient over ties
        assert FieldTensor.equal(a_grad, b_grad)


def test_different_windows_differ(field: Field) -> None:
    x = field.variables((1, 1, 4, 4), "x")
    pooled = F.max_pool2d(x, 2, 1)
    assert len({tuple(v) for v in pooled.parts.flatten(1).T.tolist()}) == 9
    assert not FieldTensor.equal(F.max_pool2d(x, 2), -F.max_pool2d(-x, 2))
    assert not FieldTensor.equal(x.amax(-1), x.amin(-1))
    doubled = torch.cat([x, x[..., :1]], -1)  # another multiset, though the same maximum: not proved
    assert not FieldTensor.equal(doubled.amax(-1), x.amax(-1))


def test_positions_are_not_known(field: Field) -> None:
    x = field.variables((1, 1, 4, 4), "x")
    values, positions = F.max_pool2d(x, 2, return_indices=True)
    with pytest.raises(UnsupportedOperation, match="position of a maximum"):
        F.max_unpool2d(values, positions, 2)
    with pytest.raises(UnsupportedOperation, match="position"):
        _ = x.max(1).indices + 1
