"""All spellings of one function agree, and what is not one function does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from equivalence.arithmetic.field import Field, FieldTensor

Function = Callable[[Any], Any]


def run(function: Function) -> tuple[FieldTensor, FieldTensor]:
    field = Field(2, 8)
    x = field.variables((3, 4), "x").requires_grad_()
    y = function(x)
    (grad,) = torch.autograd.grad(y, x, field.variables(y.shape, "cotangent"))
    return y.detach(), grad


RELU: list[Function] = [
    F.relu,
    lambda x: F.relu(x.clone(), inplace=True),
    lambda x: x * (x > 0),
    lambda x: (x >= 0) * x,
    lambda x: x * (x > 0).float(),
    lambda x: torch.where(x > 0, x, 0.0),
    lambda x: torch.where(x >= 0, x, torch.zeros_like(x)),
    lambda x: torch.where(x < 0, 0.0, x),
    lambda x: x.masked_fill(x < 0, 0),
    lambda x: x.masked_fill(x <= 0, 0),
    lambda x: x.masked_fill(~(x > 0), 0),
    lambda x: x.clamp(min=0),
    lambda x: x.clamp_min(0.0),
    lambda x: torch.maximum(x, torch.zeros_like(x)),
    lambda x: torch.maximum(torch.zeros(()), x),
    lambda x: -torch.minimum(-x, torch.zeros_like(x)),
    lambda x: (x + x.abs()) / 2,
    lambda x: x + F.relu(-x),
    lambda x: F.leaky_relu(x, 0.0),
    lambda x: F.threshold(x, 0.0, 0.0),
    lambda x: F.prelu(x, torch.zeros(1)),
    lambda x: x - x.clamp(max=0),
    lambda x: F.relu(x.t()).t(),
    lambda x: F.relu(x.reshape(-1)).view(3, 4),
    lambda x: torch.stack([F.relu(row) for row in x]),
]
LEAKY: list[Function] = [
    lambda x: F.leaky_relu(x, 0.25),
    lambda x: F.leaky_relu(x * 1, 0.25, inplace=True),
    lambda x: torch.where(x > 0, x, 0.25 * x),
    lambda x: torch.where(x >= 0, x, x / 4),
    lambda x: torch.where(x < 0, x * 0.25, x),
    lambda x: x.masked_fill(x < 0, 0) + 0.25 * x.masked_fill(x >= 0, 0),
    lambda x: F.relu(x) - 0.25 * F.relu(-x),
    lambda x: F.prelu(x, torch.tensor([0.25])),
]
RELU6: list[Function] = [
    F.relu6,
    lambda x: F.hardtanh(x.clone(), 0, 6, inplace=True),
    lambda x: x.clamp(0, 6),
    lambda x: F.relu(x) - F.relu(x - 6),
]
HARDSWISH: list[Function] = [
    F.hardswish,
    lambda x: x * F.relu6(x + 3) / 6,
    lambda x: x * F.hardsigmoid(x),
]
SILU: list[Function] = [F.silu, lambda x: x * torch.sigmoid(x), lambda x: F.silu(x.clone(), inplace=True)]
NORMALISED: list[Function] = [
    lambda x: x / torch.sqrt((x * x).mean() + 1e-5),
    lambda x: x * torch.rsqrt(x.pow(2).mean() + 1e-5),
    lambda x: x * (1 / (x.square().mean() + 1e-5).sqrt()),
    lambda x: x / (x.square().mean() + 1e-5).sqrt().view(1, 1),
    lambda x: x * (x.pow(2).mean() + 1e-5).pow(-0.5),
]
ALL = {"relu": RELU, "leaky": LEAKY, "relu6": RELU6, "hardswish": HARDSWISH, "silu": SILU, "rms": NORMALISED}
CASES = [(name, i) for name, functions in ALL.items() for i in range(1, len(functions))]


@pytest.mark.parametrize(("name", "index"), CASES)
def test_spellings_agree(name: str, index: int) -> None:
    value, grad = run(ALL[name][0])
    other, other_grad = run(ALL[name][index])
    assert FieldTensor.equal(value, other)
    if name != "rms":  # rsqrt' is -r³/2 or the chain rule through sqrt and 1/s: equal only for the actual functions
        assert FieldTensor.equal(grad, other_grad)


UNEQUAL: dict[str, tuple[Function, Function]] = {
    "gt_ge": (lambda x: (F.relu(x) > 0).float(), lambda x: (F.relu(x) >= 0).float()),
    "gt_ge_input": (lambda x: (x > 0).float(), lambda x: (x >= 0).float()),
    "mask_of_other": (lambda x: (x > 0) * (x + 1), lambda x: (x >= 0) * (x + 1)),
    "mask_of_shifted": (lambda x: (x - 1 > 0) * x, lambda x: (x - 1 >= 0) * x),
    "stale_mask": (lambda x: F.relu(x) * 1.0, lambda x: (x + 1 > 0) * x),
    "relu_twice_scaled": (lambda x: F.relu(x), lambda x: F.relu(x) * 1.0000001),
    "relu_abs": (F.relu, torch.abs),
    "leaky_slopes": (lambda x: F.leaky_relu(x, 0.01), lambda x: F.leaky_relu(x, 0.010000001)),
    "relu6_hardtanh": (F.relu6, lambda x: F.hardtanh(x, 0, 6.000001)),
    "sigmoid_tanh": (torch.sigmoid, torch.tanh),
    "gelus": (F.gelu, lambda x: F.gelu(x, approximate="tanh")),
    "eq_with_zero": (lambda x: (x == 0).float(), lambda x: torch.zeros_like(x) * x),
    "clamped_min": (lambda x: x.clamp(min=0), lambda x: x.clamp(min=1e-30)),
    "max_all": (lambda x: x.max(), lambda x: x.min()),
    "written": (lambda x: _written_mask(x), F.relu),
}


def _written_mask(x: Any) -> Any:
    """The mask belongs to what x was, not to what it is."""
    y = x * 1
    mask = y >= 0
    y.add_(1)
    return mask * y


@pytest.mark.parametrize("name", UNEQUAL)
def test_what_differs_is_not_proved(name: str) -> None:
    first, second = UNEQUAL[name]
    field = Field(2, 8)
    x = field.variables((3, 4), "x")
    with torch.no_grad():
        assert not FieldTensor.equal(first(x), second(x))


def test_stale_gates_are_forgotten() -> None:
    field = Field(2, 8)
    x = field.variables((5,), "x")
    y = F.relu(x)
    view = y[:]
    view += 1
    ones = torch.ones_like(y)
    kept = torch.ops.aten.threshold_backward(ones, F.relu(x), 0)
    assert not FieldTensor.equal(torch.ops.aten.threshold_backward(ones, y, 0), kept)


def test_gradient_of_an_identically_zero_argument_is_torchs() -> None:
    field = Field(2, 8)
    for function, expected in ((F.relu, 0.0), (lambda t: t.clamp(min=0), 1.0), (lambda t: t * (t > 0), 0.0)):
        x = field.variables((3,), "x").requires_grad_()
        (grad,) = torch.autograd.grad(function(x - x.detach()).sum(), x)
        assert FieldTensor.equal(grad, field.embed(torch.full((3,), expected)))


ACTIVATIONS: list[Function] = [
    F.gelu, lambda x: F.gelu(x, approximate="tanh"), F.mish, F.selu, F.celu, F.elu, F.silu, F.softplus, F.softsign,
    F.logsigmoid, F.tanhshrink, F.hardsigmoid, torch.tanh, torch.sigmoid, lambda x: F.softmax(x, -1),
    lambda x: F.log_softmax(x, -1), lambda x: F.glu(x, -1), lambda x: F.elu(x * 1, inplace=True),
    lambda x: F.normalize(x, dim=-1), lambda x: F.rms_norm(x, (4,)), lambda x: x.logsumexp(-1, keepdim=True),
]  # fmt: skip


@pytest.mark.parametrize("index", range(len(ACTIVATIONS)))
def test_functions_do_not_see_where_an_element_stands(index: int) -> None:
    """Rows permuted before or after, value and gradient."""
    function = ACTIVATIONS[index]
    order = torch.tensor([2, 0, 1])

    def first(x: Any) -> Any:
        return function(x)[order]

    def second(x: Any) -> Any:
        return function(x[order])

    for a, b in zip(run(first), run(second), strict=True):
        assert FieldTensor.equal(a, b)
