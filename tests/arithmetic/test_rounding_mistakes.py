"""A term left out of a bound is noticed: each mistake is planted, and a battery of small runs must
fail.
"""

from __future__ import annotations

import dataclasses
import random as randomness

import pytest
import torch
from test_rounding_blocks import lifted
from test_rounding_functions import BINARY, FUNCTIONS, arguments, assert_holds, within
from test_rounding_truth import Block, assert_bounded, exact, np, randomised
from torch.func import functional_call

from equivalence.arithmetic.rounding import (
    Rounding,
    batch_norm,
    bilinear,
    compare,
    functions,
    operands,
    precision,
    reduction,
    tensor,
)


def run_functions(*names):
    for seed in range(60):
        random = randomness.Random(seed)
        for name in names:
            dtype = (torch.float64, torch.float32, torch.bfloat16, torch.float16)[seed % 4]
            if name in BINARY:
                function, truth = BINARY[name]
                truths, kernels, x = arguments(random, dtype)
                others, other_kernels, y = arguments(random, dtype)
                expected = [within(truth, a, b) for a, b in zip(truths, others, strict=True)]
                assert_holds(function(x, y), function(kernels, other_kernels), expected)
            else:
                function, truth, least = FUNCTIONS[name]
                truths, kernels, x = arguments(random, dtype, least)
                assert_holds(function(x), function(kernels), [within(truth, t) for t in truths])


def run_products(scale=1.0, noise=0.0, dtype=torch.float32):
    """Inner products of two terms, whose bound is not far from the error."""
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        a, b = (torch.rand(2, 2, 2, generator=generator, dtype=torch.float64) + 1) * scale
        a, b = a.to(dtype), b.to(dtype)
        context = Rounding(dtype)
        x, y = context.embed(a), context.embed(b)
        shift = noise * torch.sign(torch.rand(2, 2, generator=generator, dtype=torch.float64) - 0.5)
        x.parts[0] += shift
        x.parts[1] += shift.abs() * (1 + 1e-12)
        x.state.exact = not noise
        result = x @ y
        truth = exact(a) @ exact(b)
        assert_bounded(result, result.value, truth)
        assert_bounded(result, a @ b, truth)


def run_sums():
    values = torch.cat([torch.tensor([1.0]), torch.full((4000,), 2.0**-24)])
    computed = torch.tensor(0.0)
    for v in values:
        computed = computed + v
    assert_bounded(Rounding().embed(values).sum(), computed, np.array([exact(values).sum()]))


def run_norms():
    for seed in range(20):
        block = randomised(Block(), seed).eval()
        norm = block.first
        norm.running_mean.fill_(100.0)
        x = torch.randn(1, 4, 1, 1) + 100
        context = Rounding()
        result = functional_call(norm, lifted(context, norm), (context.embed(x),))
        truth = np.empty(x.shape, dtype=object)
        e, w, b = exact(x), exact(norm.weight), exact(norm.bias)
        m, v = exact(norm.running_mean), exact(norm.running_var)
        for c in range(4):
            scale = w[c] / (v[c] + eps_of(norm)) ** 0.5
            truth[:, c] = (e[:, c] - m[c]) * scale + b[c]
        with torch.no_grad():
            s = norm.weight / (norm.running_var + norm.eps).sqrt()
            shifted = x[0, :, 0, 0] * s + (norm.bias - norm.running_mean * s)
        assert_bounded(result, shifted.view(1, 4, 1, 1), truth)


def eps_of(norm):
    return exact(torch.tensor(norm.eps, dtype=torch.float64)).item()


def no_rounding(self, bound, magnitude, roundings):
    return bound


def a_little(factor):
    original = precision.Precision.charge
    return lambda self, bound, magnitude, roundings: original(self, bound, magnitude, roundings * factor)


def without(field, value):
    """Formats that lack one property."""
    plain = precision.precision_of
    return lambda dtype: dataclasses.replace(plain(dtype), **{field: value})


def product_without_input_bounds(op, a, b, terms, form, original=bilinear._product_bound):
    parts = torch.stack((a.parts[0], torch.zeros_like(a.parts[0])))
    return original(op, a.arithmetic.wrap(parts, tensor.Knowledge(True), a.dtype), b, terms, form)


def flat(x, value, slope, original=functions.by_slope, **options):
    return original(x, value, 0.0, **options)


def settled_mask(context, value, settled, original=compare._mask):
    return original(context, value, torch.ones_like(settled))


def narrow(x, original=functions.ends):
    """The interval forgets that a kernel's argument is not the value."""
    value, _bound = x.parts
    return value, value, value.abs()


def no_cancellation(x, mean, scale, apart, bias, original=batch_norm.shifted):
    """The bound of (x - m) s + b alone."""
    moved = x.arithmetic.wrap(torch.stack((x.parts[0] - mean[0], x.parts[1])), x.state, x.dtype)
    return original(moved, torch.zeros_like(mean), scale, apart, bias)


MISTAKES = {
    "no rounding": (precision.Precision, "charge", no_rounding, lambda: run_functions("add")),
    "a third of the rounding": (
        precision.Precision,
        "charge",
        a_little(1 / 3),
        lambda: run_functions("add"),
    ),
    "products without rounding": (bilinear, "sum_units", lambda terms: 0.1, run_products),
    "products without input bounds": (
        bilinear,
        "_product_bound",
        product_without_input_bounds,
        lambda: run_products(noise=0.1),
    ),
    "products without underflow": (
        tensor,
        "precision_of",
        without("eta", 0.0),
        lambda: run_products(scale=1e-22),
    ),
    "products without overflow": (
        tensor,
        "precision_of",
        without("headroom", 1.0),
        lambda: run_products(scale=300.0, dtype=torch.float16),
    ),
    "underflow of single products": (
        tensor,
        "precision_of",
        without("eta", 0.0),
        lambda: run_functions("mul", "addcmul"),
    ),
    "sums by their square root": (reduction, "sum_units", lambda terms: terms**0.5, run_sums),
    "numbers without rounding": (
        operands,
        "number_error",
        lambda value, form: 0.0,
        lambda: run_functions("less a tenth", "times a third"),
    ),
    "functions without slope": (
        functions,
        "by_slope",
        flat,
        lambda: run_functions("exp", "tanh", "sqrt"),
    ),
    "slopes at the value": (
        functions,
        "ends",
        narrow,
        lambda: run_functions("log", "rsqrt", "cube"),
    ),
    "kernels of functions without error": (
        precision.Precision,
        "charge",
        no_rounding,
        lambda: run_functions("exp", "log"),
    ),
    "gates always settled": (
        compare,
        "_mask",
        settled_mask,
        lambda: run_functions("gate", "where"),
    ),
    "norms that do not cancel": (batch_norm, "shifted", no_cancellation, run_norms),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_the_battery_passes_without_the_mistake(name):
    MISTAKES[name][3]()


@pytest.mark.parametrize("name", MISTAKES)
def test_a_planted_mistake_is_caught(name, monkeypatch):
    where, what, mistake, battery = MISTAKES[name]
    operands.number_error.cache_clear()
    monkeypatch.setattr(where, what, mistake)
    with pytest.raises(AssertionError):
        battery()
