"""Writing in place and through views, as ordinary tensors do it; training steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F
from field_support import actual_field, assert_like_torch, integers
from torch import Tensor, nn

from equivalence.arithmetic.field import Field, FieldTensor

if TYPE_CHECKING:
    from collections.abc import Callable


def _strided(x: Any) -> Any:
    y = x * 1
    y[:, ::2].add_(1)
    y[:, 1].mul_(x[:, 0])
    return y


def _identity(x: Any) -> Any:
    identity = x + 0
    out = identity * 2
    identity += out
    return out * identity


def _halves(x: Any) -> Any:
    y = x.clone()
    a, b = y[:, :2], y[:, 2:]
    a *= x[:, 2:]
    b.sub_(a).neg_()
    return y


def _nested(x: Any) -> Any:
    y = x.clone().view(-1)
    y[2:].view(-1, 2)[:, 0].mul_(3)
    y.view(x.shape).t().unsqueeze(0).add_(y[0].clone())
    return y.view(x.shape)


def _copied(x: Any) -> Any:
    y = torch.zeros_like(x)
    y[1:] = x[:-1]
    y[:, 0] = 7
    y[0].fill_(2).add_(x[0])
    y[1].zero_()
    return y * x


def _permuted(x: Any) -> Any:
    y = x.clone().permute(1, 0)
    y[0] = F.relu(y[0].clone(), inplace=True)
    y.select(0, 1).clamp_(-1, 2)
    return y.contiguous()


def _reused(x: Any) -> Any:
    y = F.relu(x * 1)
    z = y * 2
    return z.relu_().mul(2).add_(x, alpha=3)


def _indexed(x: Any) -> Any:
    y = x.clone()
    y[torch.tensor([0, 2])] = x[torch.tensor([1, 1])] * 2
    y[x > 2] = 0
    y.index_add_(0, torch.tensor([0, 0]), x[:2])
    y.masked_fill_(torch.tensor([True, False, False, True]), 5)
    return y


PROGRAMS: list[Callable[[Any], Any]] = [
    _strided, _identity, _halves, _nested, _copied, _permuted, _reused, _indexed,
]  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.__name__)
def test_in_place_programs(program: Callable[[Any], Any]) -> None:
    values = integers(3, 4, seed=5)
    values[values == 0] = 1
    values[values == 2] = 3
    assert_like_torch(actual_field(), program, [values])


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=True)
        self.bn = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.pool(self.relu(self.bn(self.conv(x))))
        out: Tensor = self.fc(y.mean((2, 3)))
        return out


def _train(module: nn.Module, reversed_channels: bool) -> FieldTensor:
    """Outputs after two SGD steps; with hidden channels permuted, which must not matter."""
    field = Field(9, 12)
    state = field.random_like({**dict(module.named_parameters()), **dict(module.named_buffers())})
    state = {n: t.clone() for n, t in state.items()}
    if reversed_channels:
        for n in state:
            if n.startswith(("conv", "bn")) and state[n].dim():
                state[n] = state[n].flip(0)
        state["fc.weight"] = state["fc.weight"].flip(1)
    names = [n for n, _ in module.named_parameters()]
    for n in names:
        state[n].requires_grad_()
    optimiser = torch.optim.SGD([state[n] for n in names], lr=0.1, momentum=0.9, weight_decay=0.01)
    for i in range(2):
        out = torch.func.functional_call(module, state, (field.variables((2, 3, 5, 4), f"x{i}"),))
        optimiser.zero_grad()
        (out * field.variables(out.shape, "c")).sum().backward()
        optimiser.step()
    module.eval()
    with torch.no_grad():
        result: FieldTensor = torch.func.functional_call(module, state, (field.variables((1, 3, 4, 4), "z"),))
    module.train()
    return result


def test_training_steps_do_not_see_a_permutation_of_hidden_channels() -> None:
    net = Net()
    assert FieldTensor.equal(_train(net, False), _train(net, True))


def test_training_sees_a_bias_that_the_norm_hides() -> None:
    """In training a bias before a batch norm cancels; the running mean keeps it."""
    field = Field(9, 8)
    module = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    outputs, means = [], []
    for shift in (0, 1):
        state = field.random_like({**dict(module.named_parameters()), **dict(module.named_buffers())})
        with torch.no_grad():
            state["0.bias"].add_(shift)
            outputs.append(torch.func.functional_call(module, state, (field.variables((2, 2, 3, 3), "x"),)))
        means.append(state["1.running_mean"])
    assert FieldTensor.equal(*outputs)
    assert not FieldTensor.equal(*means)
