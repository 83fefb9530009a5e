"""Residues that are had piece by piece are those that are had at once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from equivalence import BlockSpec, Grouped, PerBranch
from equivalence.arithmetic.field import Field, convolution
from equivalence.arithmetic.field.draw import Draw
from equivalence.arithmetic.field.modulus import Modulus
from equivalence.arithmetic.field.primes import draw
from equivalence.verdict import evaluate
from equivalence.weights.sides import side_of

MODULUS = Modulus(draw(0, 5))
SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)


@given(shape=SHAPES, seed=st.integers(0, 99))
def test_pieces_are_those_of_the_whole(shape, seed):
    drawn = Draw(MODULUS, seed, "weights", shape)
    whole = drawn.all()
    assert whole.shape == (5, *shape)
    assert torch.equal(torch.cat([drawn.piece(i) for i in range(shape[0])], 1), whole)
    assert torch.equal(torch.cat([drawn.modulo(k) for k in range(5)]), whole)


def test_pieces_longer_than_a_chunk_are_those_of_the_whole():
    drawn = Draw(MODULUS, 0, "weights", (2, 40_000))
    assert torch.equal(torch.cat([drawn.piece(0), drawn.piece(1)], 1), drawn.all())
    assert torch.equal(drawn.modulo(3)[0], drawn.all()[3])


def test_residues_are_centred_and_spread_evenly():
    drawn = Draw(MODULUS, 0, "weights", (1, 50_000)).all()[:, 0]
    for row, prime in zip(drawn, MODULUS.primes, strict=True):
        assert torch.equal(row, row.round())
        assert row.abs().max() <= (prime - 1) / 2
        assert (row / prime).histc(10, -0.5, 0.5).sub(5_000).abs().max() < 400


def test_another_key_and_another_seed_are_other_residues():
    first, *others = (Draw(MODULUS, s, key, (9,)).all() for s, key in [(0, "a"), (0, "b"), (1, "a")])
    assert not any(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("form", [PerBranch, Grouped])
def test_it_makes_no_difference_when_residues_are_made(form, monkeypatch):
    block = form(BlockSpec(in_channels=4, cardinality=2, width=3))

    def outputs():
        found = evaluate.evaluate(Field(1, 5), block, "left", [(2, 4, 5, 4)], "eval", side_of(block), gradients=False)
        return found[(2, 4, 5, 4), "outputs"].parts

    at_once = outputs()
    monkeypatch.setattr(evaluate, "_MANY", 1)
    kept = outputs()
    monkeypatch.setattr(convolution, "_MANY", 1)
    assert torch.equal(kept, at_once)
    assert torch.equal(outputs(), at_once)


def test_what_is_written_to_deferred_residues_stays():
    field = Field(0, 5)
    canonical = field.draw((1, 3), "x")

    class Later:
        shape = (3,)

        def residues(self):
            return canonical.piece(0)[:, 0]

        def modulo(self, number):
            return self.residues()[number : number + 1]

    x = field.deferred(Later(), torch.float32)
    x[:1].zero_()
    assert not x.parts[:, 0].any()
    assert torch.equal(x.parts[:, 1:], canonical.all()[:, 0, 1:])
