"""Thousands of pairs of expressions: those equal by construction are proved, those that differ somewhere never are."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from support import actual_field, assert_residues_of, integers
from torch import Tensor

from equivalence.arithmetic.field import Field, FieldTensor
from equivalence.arithmetic.field.hashing import RandomFunctions
from equivalence.arithmetic.field.modulus import Modulus

if TYPE_CHECKING:
    from collections.abc import Callable

Expression = tuple[Any, ...]

UNARY: dict[str, Callable[[Any], Any]] = {
    "neg": lambda a: -a,
    "relu": torch.relu,
    "abs": torch.abs,
    "leaky": lambda a: torch.nn.functional.leaky_relu(a, 0.125),
    "sigmoid": torch.sigmoid,
    "exp": lambda a: torch.exp(-a * a),
    "positive": lambda a: (a > 0) * 1.0,
    "not_negative": lambda a: (a >= 0) * 1.0,
    "square": lambda a: a**2,
    "half": lambda a: a / 2,
    "plus": lambda a: a + 0.75,
    "clamp": lambda a: a.clamp(-1, 1),
}
BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "max": torch.maximum,
    "gate": lambda a, b: a * (b > 0),
    "where": lambda a, b: torch.where(b >= 0, a, b),
}


MASKED = ("positive", "not_negative", "gate", "where")


def build(rng: random.Random, depth: int, masked: bool = True) -> Expression:
    """A random expression; one without masks has the rewritings below for a proof, whatever it is made of."""
    if depth == 0 or rng.random() < 0.1:
        return ("var", rng.randrange(3)) if rng.random() < 0.85 else ("const", rng.choice([-2, 0, 0.5, 1, 3]))
    if rng.random() < 0.4:
        return (rng.choice([n for n in UNARY if masked or n not in MASKED]), build(rng, depth - 1, masked))
    name = rng.choice([n for n in BINARY if masked or n not in MASKED])
    return (name, build(rng, depth - 1, masked), build(rng, depth - 1, masked))


def evaluate(e: Expression, variables: list[Any]) -> Any:
    if e[0] == "var":
        return variables[e[1]]
    if e[0] == "const":
        return torch.zeros_like(variables[0]) + e[1]
    values = [evaluate(child, variables) for child in e[1:]]
    return UNARY[e[0]](*values) if len(values) == 1 else BINARY[e[0]](*values)


def rewrite(e: Expression, rng: random.Random) -> Expression:
    """The same function of the reals by an identity that the field must see."""
    if e[0] in ("var", "const"):
        return ("sub", ("add", e, ("var", 1)), ("var", 1)) if rng.random() < 0.2 else e
    children = tuple(rewrite(child, rng) for child in e[1:])
    name = e[0]
    if rng.random() < 0.3:
        return (name, *children)
    a, b = children[0], children[-1]
    rules: dict[str, Expression] = {
        "neg": ("sub", ("const", 0), a),
        "relu": ("gate", a, a),
        "abs": ("add", ("relu", a), ("relu", ("neg", a))),
        "leaky": ("sub", ("relu", a), ("half", ("half", ("half", ("relu", ("neg", a)))))),
        "square": ("mul", a, a),
        "half": ("mul", a, ("const", 0.5)),
        "plus": ("sub", ("add", ("half", ("const", 3)), a), ("const", 0.75)),
        "clamp": ("sub", ("relu", ("add", a, ("const", 1))), ("add", ("relu", ("sub", a, ("const", 1))), ("const", 1))),
        "positive": ("sub", ("const", 1), ("not_negative", ("neg", a))),
        "add": ("add", b, a),
        "sub": ("neg", ("sub", b, a)),
        "mul": ("mul", b, a),
        "max": ("max", b, a),
    }
    return rules.get(name, (name, *children))


def mutate(e: Expression, rng: random.Random) -> Expression:
    """One operation, variable or constant replaced."""
    if e[0] == "var":
        return ("var", (e[1] + 1) % 3)
    if e[0] == "const":
        return ("const", e[1] + 1)
    if rng.random() < 0.3:
        names = list(UNARY if len(e) == 2 else BINARY)
        return (rng.choice([n for n in names if n != e[0]]), *e[1:])
    i = rng.randrange(1, len(e))
    return (*e[:i], mutate(e[i], rng), *e[i + 1 :])


POINTS = [torch.randn(64, generator=torch.Generator().manual_seed(i), dtype=torch.float64) * 2 for i in range(3)]
for _row, _point in enumerate(POINTS):
    _point[:8] = torch.tensor([0, 0, 1, -1, 0.5, 0, 2, 0], dtype=torch.float64).roll(_row)


@pytest.mark.parametrize("seed", range(10))
def test_random_pairs(seed: int) -> None:
    rng = random.Random(seed)
    field = Field(seed, 8, dtype=torch.float64)
    variables = [field.variables((), f"v{i}") for i in range(3)]
    differing = 0
    for _ in range(150):
        masked = rng.random() < 0.5
        expression = build(rng, 3, masked)
        value = evaluate(expression, variables)
        if not masked:
            same = rewrite(expression, rng)
            assert FieldTensor.equal(value, evaluate(same, variables)), (expression, same)
        other = mutate(expression, rng)
        if FieldTensor.equal(value, evaluate(other, variables)):
            expected, actual = evaluate(expression, POINTS), evaluate(other, POINTS)
            torch.testing.assert_close(expected, actual, rtol=1e-9, atol=1e-9)
        else:
            differing += 1
    assert differing > 75
    assert field.log2_error(value) < -60


@pytest.mark.parametrize("primes", [1, 2])
def test_collisions_of_tiny_primes_match_the_formula(primes: int) -> None:
    """Unequal polynomials agree as often as 1/p says, and never more often than the bound."""
    points = 1 << (13 if primes == 1 else 16)
    rate = bound = expected = 0.0
    runs = 6
    for seed in range(runs):
        field = Field(seed, primes, dtype=torch.float64, prime_range=(1 << 6, 1 << 7))
        x, y = (field.variables((points,), k) for k in "xy")
        a, b = x * y + 3 * x, torch.sigmoid(x) + y
        rate += float((a.parts == b.parts).all(0).double().mean()) / runs
        expected += float(np.prod([1 / p for p in field.modulus.primes])) / runs
        single = Field(seed, primes, dtype=torch.float64, prime_range=(1 << 6, 1 << 7))
        x, y = (single.variables((), k) for k in "xy")
        bound += 2.0 ** single.log2_error(x * y + 3 * x, torch.sigmoid(x) + y) / runs
    assert 0.7 * expected < rate < 1.4 * expected
    assert rate < bound


def test_random_functions_are_neither_linear_nor_predictable() -> None:
    """No low-order difference of values along an arithmetic progression vanishes; values are uniform."""
    field = Field(1, 8)
    line = field.variables((), "a") + field.variables((), "b") * torch.arange(4000.0, dtype=torch.float64)
    parts = torch.sigmoid(line).parts
    for _ in range(6):
        parts = field.modulus.reduce_(parts.diff(dim=1))
        assert int((parts == 0).sum()) <= 2
    values = torch.sigmoid(line).parts / torch.tensor(field.modulus.primes).view(-1, 1)
    counts = torch.stack([torch.histc(v, 16, -0.5, 0.5) for v in values])
    assert float(((counts - 250) ** 2 / 250).sum(1).max()) < 50  # chi-squared, 15 degrees of freedom
    assert abs(float(torch.corrcoef(values).fill_diagonal_(0).abs().max())) < 0.1


def test_functions_of_other_names_and_seeds_are_others() -> None:
    field = Field(1, 8)
    x = field.variables((50,), "x")
    results = [f(x).parts for f in (torch.sigmoid, torch.tanh, torch.exp, torch.rsqrt, torch.reciprocal)]
    assert all(not bool((a == b).all(0).any()) for i, a in enumerate(results) for b in results[:i])
    assert torch.equal(torch.sigmoid(x.view(5, 10).t()).parts, torch.sigmoid(x).parts.view(-1, 5, 10).mT)


def _suite() -> None:
    """A small extract of what the tests above check."""
    field = Field(3, 6)
    a, b = (integers(2, 40, seed=s, limit=10**6) for s in (1, 2))
    assert_residues_of(field.embed(a) * field.embed(b), a * b)
    x, y = (field.variables((64,), k) for k in "xy")
    assert FieldTensor.equal(torch.relu(x), x * (x > 0))
    assert FieldTensor.equal(torch.relu(x), x + torch.relu(-x))
    assert not FieldTensor.equal(torch.relu(x), x)
    assert not FieldTensor.equal((torch.relu(x) > 0) * 1.0, (torch.relu(x) >= 0) * 1.0)
    sums = torch.sigmoid(x) + torch.sigmoid(y) - torch.sigmoid(x + y)
    second = torch.sigmoid(x + 2 * y) - 2 * torch.sigmoid(x + y) + torch.sigmoid(x)
    assert int((sums.parts == 0).sum()) < 3
    assert int((second.parts == 0).sum()) < 3
    shifted = x.parts.clone()
    shifted[-1] += 1
    moved = field.wrap(field.modulus.reduce_(shifted), x.state.copy(), x.dtype)
    assert float((torch.sigmoid(moved).parts == torch.sigmoid(x).parts).double().mean()) < 0.05
    assert field.log2_error(second) < -64 < field.log2_error() + 64


def _identity(_self: Any, _name: str, flat: Tensor) -> Tensor:
    return flat.clone()


def _linear(self: Any, name: str, flat: Tensor) -> Tensor:
    return (self._form(len(flat)) @ flat)[: len(flat)] % 1048583


def _first_residue_only(self: Any, name: str, flat: Tensor) -> Tensor:
    return ORIGINAL(self, name, flat[:1].expand_as(flat).contiguous())


def _own_residue_only(self: Any, name: str, flat: Tensor) -> Tensor:
    rows = [ORIGINAL(self, name, row.expand_as(flat).contiguous())[i] for i, row in enumerate(flat)]
    return torch.stack(rows)


def _unsigned(self: Any, flat: Tensor) -> Tensor:
    return torch.ones(1, flat.shape[1], dtype=torch.float64)


def _not_reduced(self: Modulus, y: Tensor) -> Tensor:
    return y


def _off_by_one(self: Modulus, y: Tensor) -> Tensor:
    return REDUCE(self, y.add_(1))


ORIGINAL, REDUCE = RandomFunctions.value, Modulus.reduce_
FAULTS = {
    "identity": (RandomFunctions, "value", _identity),
    "linear": (RandomFunctions, "value", _linear),
    "first_residue_only": (RandomFunctions, "value", _first_residue_only),
    "own_residue_only": (RandomFunctions, "value", _own_residue_only),
    "unsigned": (RandomFunctions, "sign", _unsigned),
    "not_reduced": (Modulus, "reduce_", _not_reduced),
    "off_by_one": (Modulus, "reduce_", _off_by_one),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_arithmetic_is_noticed(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _suite()
    monkeypatch.setattr(*FAULTS[fault])
    with pytest.raises(AssertionError):
        _suite()


def test_actual_functions_give_actual_values() -> None:
    field = actual_field()
    x = integers(20, seed=3)
    assert_residues_of(torch.relu(field.embed(x)) - field.embed(x).abs(), torch.relu(x) - x.abs())
