"""Witnesses: found where functions differ, repeatable, and never an effect of rounding."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from equivalence import BlockSpec, Grouped, PerBranch, transfer
from equivalence.arithmetic.errors import UnsupportedOperation
from equivalence.verdict.experiments import INPUT_GRADIENT, OUTPUTS
from equivalence.verdict.witness import Kinks, find_witness, witness_input
from tests.strategies import block_specs, randomised, seeds

SHAPES = ((2, 3, 5, 5), (1, 3, 4, 4))


class Body(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        return self.body(x)


def search(left, right, mode="eval", seed=0, shapes=SHAPES):
    left, right = (m if isinstance(m, nn.Module) else Body(m) for m in (left, right))
    return find_witness(left, right, shapes, mode, seed)


@settings(max_examples=3)
@given(
    spec=block_specs(
        in_channels=3, kernel_size=3, cardinality=2, width=2, dilation=1, spatial_dims=2, activation="relu"
    ),
    seed=seeds(),
    mode=st.sampled_from(["eval", "train"]),
)
def test_transferred_forms_have_none_and_independent_ones_do(spec, seed, mode):
    left, right = randomised(PerBranch(spec), seed), randomised(Grouped(spec), seed + 1)
    shapes = ((2, 3, 4, 4),)
    assert search(left, right, mode, seed, shapes) is not None
    transfer(left, right)
    assert search(left, right, mode, seed, shapes) is None


def test_a_witness_can_be_repeated_by_hand():
    found = search(lambda x: x, lambda x: torch.where(x > 50, x + 1, x), seed=5)
    assert found.experiment == OUTPUTS
    x = witness_input(found.pattern, found.shape, torch.float32, 5)
    assert float(x[found.index]) == found.left > 50
    assert found.right - found.left == 1
    assert found.bound < 1e-6
    assert found.pattern in str(found)
    assert str(found.shape) in str(found)


@pytest.mark.parametrize(
    "body",
    [
        lambda x: F.leaky_relu(x, 1e-7),
        lambda x: F.relu(x) * (1 + 2.0**-40),
        lambda x: F.relu(x) + 1e-25,
        lambda x: F.relu(x) * torch.where(x > 1e6, 1.5, 1.0),
        lambda x: F.relu(x) * (2 if x.shape[0] == 1 else 1),
        lambda x: F.relu(x) * (2 if x.shape[-1] % 2 == 0 else 1),
        lambda x: F.relu(x).detach() + 0 * x,
        lambda x: F.relu(x) + (x == 0).to(x.dtype),
        lambda x: F.relu(x).clamp(max=1e9),
    ],
)
def test_what_shows_only_somewhere_is_found(body):
    assert search(F.relu, body) is not None


@pytest.mark.parametrize(
    "body",
    [
        lambda x: (x + 1) - 1,
        lambda x: (x * 3) / 3,
        lambda x: (x * 1e10 + x.sum()) * 1e-10 - x.sum() * 1e-10,
        lambda x: (
            x.flip(3)
            .cumsum(3)
            .cumsum(3)
            .diff(dim=3, prepend=x[..., :1] * 0)
            .diff(dim=3, prepend=x[..., :1] * 0)
            .flip(3)
        ),
    ],
)
def test_rounding_is_no_witness(body):
    assert search(lambda x: x, body) is None


def test_a_convention_at_a_kink_is_no_witness():
    """F.relu has the derivative 0 at 0, and clamp 1; the gradient must not be judged there."""
    assert search(lambda x: F.relu(F.relu(x) * 0 + x * 0), lambda x: (x * 0).clamp(min=0)) is None
    assert search(lambda x: torch.relu(x - x.detach()), lambda x: (x - x.detach()).clamp(min=0)) is None


def test_a_cut_gradient_is_a_witness_also_where_nothing_is_left_of_it():
    found = search(lambda x: x * 2, lambda x: x.detach() * 2)
    assert found.experiment == INPUT_GRADIENT
    assert found.right == 0


def test_kinks_are_noticed_where_pieces_meet_and_nowhere_else():
    from equivalence.arithmetic.rounding import Rounding

    def met(body, value):
        with Kinks() as kinks:
            body(Rounding().embed(torch.tensor([1.5, value])))
        return kinks.met

    for body, end in ((F.relu, 0.0), (F.relu6, 6.0), (torch.abs, 0.0), (lambda x: x > 3, 3.0)):
        assert met(body, end)
        assert not met(body, end + 0.25)
        assert not met(torch.exp, end)


def test_an_operation_without_a_bound_is_named():
    with pytest.raises(UnsupportedOperation, match="fft"):
        search(lambda x: x, lambda x: torch.fft.fft(x).real)


def test_a_module_that_fails_in_this_arithmetic_is_no_crash():
    def particular(x):
        if type(x) is not torch.Tensor:
            raise KeyError("only plain tensors")
        return x

    with pytest.raises(UnsupportedOperation, match="only plain tensors"):
        search(lambda x: x, particular)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_inputs_are_numbers_of_the_modules_dtype(dtype):
    for pattern in ("normal × 1", "positive", "negative", "alternating", "sparse", "one channel", "constant", "zero"):
        x = witness_input(pattern, (2, 3, 4, 4), dtype, seed=1)
        assert x.dtype is torch.float64
        assert torch.equal(x, x.to(dtype).double())


def test_a_small_dtype_is_searched_at_the_scales_that_it_has():
    spec = BlockSpec(in_channels=3, cardinality=2, width=2)
    left, right = Grouped(spec).half(), Grouped(spec).half()
    assert search(left, right, shapes=((2, 3, 5, 5),)) is not None
    transfer(left, right)
    assert search(left, right, shapes=((2, 3, 5, 5),)) is None
