"""The proof: what it says, what it covers, and that a broken field would be noticed."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from equivalence import BlockSpec, Concatenated, Grouped, PerBranch, prove, transfer
from equivalence.arithmetic.field.hashing import RandomFunctions
from equivalence.arithmetic.field.modulus import Modulus
from equivalence.verdict.prove import default_shapes
from tests.strategies import FORMS, block_specs, randomised, seeds

SPEC = BlockSpec(in_channels=3, cardinality=2, width=2)


def transferred(spec, seed=0):
    made = [randomised(form(spec), seed + i) for i, form in enumerate(FORMS)]
    for other in made[1:]:
        transfer(made[0], other)
    return made


class Body(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        return self.body(x)


@settings(max_examples=4)
@given(
    spec=block_specs(in_channels=3, cardinality=2, width=2, spatial_dims=2),
    seed=seeds(),
    mode=st.sampled_from(["eval", "train"]),
)
def test_independent_forms_are_proved_for_all_weights_and_not_for_these(spec, seed, mode):
    left, right = (randomised(form(spec), seed + i) for i, form in enumerate((PerBranch, Grouped)))
    assert prove(left, right, weights="all", mode=mode, seed=seed).holds is True
    assert prove(left, right, mode=mode, seed=seed).holds is False


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_a_proof_covers_all_experiments_of_its_mode(mode):
    proof = prove(*transferred(SPEC)[1:], mode=mode)
    assert {"outputs", "input gradient"} <= set(proof.experiments)
    assert ("outputs after an SGD step" in proof.experiments) == (mode == "train")
    assert proof
    assert all(proof.experiments.values())


def test_a_proof_is_one_sentence_with_its_probability():
    proof = prove(*transferred(SPEC)[:2], input_shape=(2, 3, 4, 4))
    assert proof.log2_error < -64
    assert str(proof) == (
        f"proved for every input of shape (2, 3, 4, 4), wrong with a probability below 2^{proof.log2_bound}"
    )
    assert proof.log2_error <= proof.log2_bound < proof.log2_error + 1


def test_what_is_not_proved_says_which_experiment():
    proof = prove(nn.ReLU(), nn.ReLU6(), input_shape=(1, 2, 3, 3))
    assert proof.holds is False
    assert not proof
    assert str(proof).startswith("not proved at (1, 2, 3, 3): outputs")


def test_what_cannot_be_followed_names_side_operation_and_submodule():
    unknown = nn.Sequential(nn.ReLU(), Body(lambda x: torch.fft.fft(x).real))
    proof = prove(nn.ReLU(), unknown, input_shape=(1, 2, 3, 3))
    assert proof.holds is None
    assert not proof
    assert all(word in str(proof) for word in ("cannot be followed", "right", "fft", "'1'"))


def test_all_weights_need_two_forms():
    with pytest.raises(ValueError, match="two forms"):
        prove(nn.ReLU(), nn.ReLU(), input_shape=(1, 2, 3, 3), weights="all")


def test_more_primes_are_drawn_until_the_probability_is_small():
    deep = nn.Sequential(*[m for _ in range(12) for m in (nn.Conv2d(2, 2, 3, padding=1), nn.ReLU())])
    proof = prove(deep, deep, input_shape=(2, 2, 8, 8))
    assert proof
    assert proof.log2_error < -64


@pytest.mark.parametrize(("kernel_size", "dilation", "stride"), [(1, 1, 1), (3, 1, 2), (5, 2, 1), (3, 3, 3)])
def test_default_shapes_have_an_interior_both_parities_and_both_batches(kernel_size, dilation, stride):
    one = Grouped(BlockSpec(in_channels=3, cardinality=2, width=2))
    other = Grouped(
        BlockSpec(in_channels=3, cardinality=2, width=2, kernel_size=kernel_size, dilation=dilation, stride=stride)
    )
    shapes = default_shapes(one, other)
    assert shapes == default_shapes(other, one)
    assert {shape[0] for shape in shapes} == {1, 2}
    assert {shape[-1] % 2 for shape in shapes} == {0, 1}
    assert min(shape[-1] for shape in shapes) > dilation * (kernel_size - 1)


def test_a_seed_draws_other_primes_and_inputs():
    left, _, right = transferred(SPEC)
    with torch.no_grad():
        right.norm.weight[0] += 2.0**-20
    assert [prove(left, right, seed=seed).holds for seed in range(5)] == [False] * 5


def test_gradients_can_be_left_out():
    cut = Body(lambda x: x.detach() + 0 * x)
    assert prove(cut, nn.Identity(), input_shape=(1, 2, 3, 3)).holds is False
    assert prove(cut, nn.Identity(), input_shape=(1, 2, 3, 3), gradients=False).holds is True


# --- broken on purpose -----------------------------------------------------------------------------------------


def _forms_hold():
    left, _, right = transferred(SPEC)
    return prove(left, right).holds is True


def _hand_written_product_holds():
    return prove(Body(lambda x: x * (x + x)), Body(lambda x: x * x + x * x), input_shape=(1, 2, 3, 3)).holds is True


def test_a_wrong_product_would_lose_the_proof(monkeypatch):
    assert _hand_written_product_holds()
    assert _forms_hold()
    honest = Modulus.mul
    monkeypatch.setattr(Modulus, "mul", lambda self, a, b: self.reduce_(honest(self, a, b) + 1))
    assert not _hand_written_product_holds()


def test_a_function_that_ignores_its_argument_would_prove_too_much(monkeypatch):
    scaled = Body(lambda x: torch.sigmoid(2 * x))

    def misses():
        return prove(nn.Sigmoid(), scaled, input_shape=(1, 2, 3, 3), gradients=False).holds is True

    assert not misses()
    honest = RandomFunctions.value
    monkeypatch.setattr(RandomFunctions, "value", lambda self, name, flat: honest(self, name, torch.zeros_like(flat)))
    assert misses()


def test_a_sign_that_is_lost_would_prove_too_much(monkeypatch):
    def misses():
        pair = Body(lambda x: F.relu(x) * 1.0), Body(lambda x: x * 0.5)
        return prove(*pair, input_shape=(1, 2, 3, 3), gradients=False).holds is True

    assert not misses()
    monkeypatch.setattr(RandomFunctions, "sign", lambda self, flat: torch.zeros_like(flat[:1]))
    assert misses()


def test_concatenated_is_covered_too():
    left, middle, right = transferred(BlockSpec(in_channels=4, out_channels=6, cardinality=2, width=2, stride=2))
    assert isinstance(middle, Concatenated)
    assert prove(left, middle)
    assert prove(middle, right)
