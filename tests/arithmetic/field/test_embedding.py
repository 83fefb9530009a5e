"""Floats embed as the rationals they are."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equivalence.arithmetic.errors import NonFiniteValue
from equivalence.arithmetic.field import Field

FIELD = Field(11, 4)
EXTREMES = [0.0, -0.0, 5e-324, -2.2e-308, 1.7976931348623157e308, 0.1, 1 / 3, 2.0**-149, -1.0, 65504.0]


def residue(value: Fraction, p: int) -> int:
    r = value.numerator * pow(value.denominator, -1, p) % p
    return r - p if 2 * r > p else r


def expected(values: list[float]) -> list[list[int]]:
    return [[residue(Fraction(v), p) for v in values] for p in FIELD.modulus.primes]


floats64 = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(floats64, st.sampled_from(EXTREMES), st.floats(-1, 1)), min_size=1, max_size=20))
def test_float64(values: list[float]) -> None:
    embedded = FIELD.embed(torch.tensor(values, dtype=torch.float64))
    assert embedded.parts.tolist() == expected(values)
    check_bound(embedded, values)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_float32(values: list[float]) -> None:
    embedded = FIELD.embed(torch.tensor(values, dtype=torch.float32))
    assert embedded.parts.tolist() == expected(values)
    check_bound(embedded, values)


def check_bound(embedded: object, values: list[float]) -> None:
    bound = embedded.state  # type: ignore[attr-defined]
    for v in values:
        assert Fraction(v) == 0 or math.log2(abs(Fraction(v))) <= bound.high + 1e-9
        assert (Fraction(v) * Fraction(2) ** -int(bound.low)).denominator == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_finite_half(dtype: torch.dtype) -> None:
    every = torch.arange(-(2**15), 2**15, 37, dtype=torch.int32).to(torch.int16).view(dtype)
    every = every[torch.isfinite(every)]
    assert FIELD.embed(every).parts.tolist() == expected(every.double().tolist())


def test_many_tensors_in_one_pass_are_those_of_single_passes() -> None:
    generator = torch.Generator().manual_seed(0)
    state = {f"t{i}": torch.randn(i % 5, 3, generator=generator) * 10.0 ** (i - 3) for i in range(8)}
    state["half"] = torch.randn(7, generator=generator).to(torch.bfloat16)
    state["big"] = torch.randn(40000, generator=generator)
    state["count"] = torch.tensor(3)
    together = FIELD.embed_all(state)
    assert together["count"] is state["count"]
    for name, tensor in state.items():
        if tensor.is_floating_point():
            assert torch.equal(together[name].parts, FIELD.embed(tensor).parts)
            assert together[name].dtype is tensor.dtype


@settings(max_examples=60, deadline=None)
@given(st.one_of(floats64, st.integers(-(10**9), 10**9)))
def test_numbers(value: float) -> None:
    residues, _ = FIELD.number(value)
    assert residues.tolist() == [residue(Fraction(value), p) for p in FIELD.modulus.primes]


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_values_outside_the_ring_are_named(bad: float) -> None:
    with pytest.raises(NonFiniteValue, match=r"'scale'.*(inf|nan)"):
        FIELD.embed_all({"fine": torch.ones(3), "scale": torch.tensor([1.0, bad])})
    with pytest.raises(NonFiniteValue):
        FIELD.variables((2,), "x") * bad
