"""Arithmetic modulo p against Python integers, at the limits the module promises."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equivalence.arithmetic.field.modulus import EXACT, ONE_STEP, Modulus
from equivalence.arithmetic.field.primes import draw, pool

PRIMES = (pool()[0], pool()[-1], *draw(5, 3))
MODULUS = Modulus(PRIMES)


def centred(value: int, p: int) -> int:
    r = value % p
    return r - p if 2 * r > p else r


def near_halves(limit: int) -> st.SearchStrategy[int]:
    """Integers up to limit, many of them next to a half-integer multiple of a prime."""
    worst = st.builds(
        lambda p, k, d: max(-limit, min(limit, (p * (2 * (k % max(1, limit // p)) + 1)) // 2 + d)),
        st.sampled_from(PRIMES),
        st.integers(0, limit),
        st.integers(-1, 1),
    )
    return st.one_of(st.integers(-limit, limit), worst)


@settings(max_examples=80, deadline=None)
@given(st.lists(near_halves(int(ONE_STEP)), min_size=1, max_size=30))
def test_one_step_reduces_up_to_its_limit(values: list[int]) -> None:
    y = torch.tensor([values] * len(PRIMES), dtype=torch.float64)
    expected = [[centred(v, p) for v in values] for p in PRIMES]
    assert MODULUS.reduce_(y).tolist() == expected


@settings(max_examples=80, deadline=None)
@given(st.lists(near_halves(int(EXACT)), min_size=1, max_size=30))
def test_two_steps_reduce_every_exact_integer(values: list[int]) -> None:
    y = torch.tensor([values] * len(PRIMES), dtype=torch.float64)
    expected = [[centred(v, p) for v in values] for p in PRIMES]
    assert MODULUS.reduce_sized_(y, EXACT).tolist() == expected


def test_matrix_products_longer_than_a_significand_holds() -> None:
    terms = 3 * 8192 + 5
    p = max(PRIMES)
    largest = torch.full((len(PRIMES), 1, terms), (p - 1) // 2, dtype=torch.float64)
    residues = MODULUS.reduce_(largest.clone())
    result = MODULUS.bmm(residues, residues.transpose(1, 2))
    exact = [[centred(int(residues[k, 0, 0]) ** 2 * terms, q)] for k, q in enumerate(PRIMES)]
    assert result[:, :, 0].tolist() == exact


def test_pool_is_all_primes_of_21_bits() -> None:
    assert len(pool()) == 73586
    assert pool(2, 30) == (3, 5, 7, 11, 13, 17, 19, 23, 29)


def test_drawing_is_deterministic_and_distinct() -> None:
    assert draw(7, 12) == draw(7, 12) != draw(8, 12)
    assert len(set(draw(7, 12))) == 12
