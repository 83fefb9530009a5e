"""What cannot be answered exactly is refused, naming the operation and, on demand, the submodule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from equivalence.arithmetic.errors import RedrawPrimes, UnsupportedOperation
from equivalence.arithmetic.field import Field, FieldTensor
from equivalence.arithmetic.location import locating

if TYPE_CHECKING:
    from collections.abc import Callable

REFUSED: dict[str, Callable[[Any], Any]] = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool((x > 0).any()),
    "float": lambda x: float(x[0]),
    "nonzero": lambda x: x.nonzero(),
    "dropout": lambda x: F.dropout(x, 0.5, True),
    "rand_like": torch.rand_like,
    "sort": lambda x: x.sort(),
    "argmax": lambda x: x.argmax(),
    "topk": lambda x: x.topk(1),
    "median": lambda x: x.median(),
    "long": lambda x: x.long(),
    "floor_divide": lambda x: torch.div(x, 2, rounding_mode="floor"),
    "fft": torch.fft.fft,
    "adaptive_max_pool": lambda x: F.adaptive_max_pool2d(x.view(1, 1, 3, 1), 1),
    "plain_target": lambda x: torch.zeros(3).add_(x),
    "plain_slice": lambda x: torch.zeros(3).copy_(x),
    "masked_index": lambda x: x[x > 0],
    "zero_division": lambda x: x / 0,
    "infinite": lambda x: x.masked_fill(x > 0, float("-inf")),
    "numpy": lambda x: x.numpy(),
    "tolist": lambda x: x.tolist(),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    x = Field(0, 2).variables((3,), "x")
    with pytest.raises((UnsupportedOperation, RuntimeError)):
        REFUSED[name](x)


def test_the_submodule_is_named() -> None:
    net = nn.Sequential(nn.ReLU(), nn.Sequential(nn.Identity(), nn.Dropout(0.5)))
    x = Field(0, 2).variables((3,), "x")
    with locating(net), pytest.raises(UnsupportedOperation, match=r"1\.1") as caught:
        net(x)
    assert caught.value.submodule == "1.1"
    assert "bernoulli" in caught.value.operation or "dropout" in caught.value.operation
    with pytest.raises(UnsupportedOperation) as caught:
        net(x)
    assert caught.value.submodule is None
    assert not net._forward_hooks
    assert not net._forward_pre_hooks


def test_casts() -> None:
    field = Field(0, 4, dtype=torch.bfloat16)
    x = field.variables((5,), "x")
    assert FieldTensor.equal(x.float(), x)
    assert x.float().dtype is torch.float32
    assert FieldTensor.equal(x.float().bfloat16(), x)
    field = Field(0, 4)
    x = field.variables((5,), "x")
    assert FieldTensor.equal(x.double(), x)
    for narrower in (torch.bfloat16, torch.float16):
        assert not FieldTensor.equal(x.to(narrower).float(), x)
        assert FieldTensor.equal(x.to(narrower), x.to(narrower))
    assert not FieldTensor.equal(x.half().float(), x.bfloat16().float())


def test_a_divisor_that_is_no_unit_asks_for_other_primes() -> None:
    field = Field(0, 2)
    with pytest.raises(RedrawPrimes):
        field.variables((2,), "x") / field.modulus.primes[0]


def test_tensors_of_two_runs_are_not_compared() -> None:
    with pytest.raises(ValueError, match="primes"):
        FieldTensor.equal(Field(0, 2).variables((1,), "x"), Field(1, 2).variables((1,), "x"))


def test_same_seed_same_numbers() -> None:
    a, b = Field(5, 3), Field(5, 3)
    assert FieldTensor.equal(torch.sigmoid(a.variables((4,), "x")), torch.sigmoid(b.variables((4,), "x")))
    assert not FieldTensor.equal(a.variables((4,), "x"), a.variables((4,), "y"))
    assert torch.rand(1, generator=torch.Generator().manual_seed(0)).item() == pytest.approx(0.4962566)
