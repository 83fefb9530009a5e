"""Whole blocks: no value and no float run is farther from the truth than its bound, forward and
backward.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_rounding_truth import (
    FORMATS,
    Block,
    Dual,
    assert_bounded,
    convolve,
    exact,
    mpf,
    np,
    randomised,
)
from torch.func import functional_call

from equivalence.arithmetic.rounding import Rounding

seeds = st.integers(0, 2**20)
scales = st.sampled_from([1.0, 1e-30, 1e-12, 1e-4, 1e4, 1e12, 1e30])


def lifted(context, module):
    return context.embed_all(dict(module.named_parameters()) | dict(module.named_buffers()))


def run(context, module, x):
    with torch.no_grad():
        return functional_call(module, lifted(context, module), (context.embed(x),))


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@given(seed=seeds, scale=scales, input_scale=scales)
def test_blocks_stay_within_their_bounds(training, seed, scale, input_scale):
    for dtype in (torch.float32, FORMATS[seed % 4]):
        block = randomised(Block(), seed, scale).to(dtype).train(training)
        x = (torch.randn(1, 4, 2, 2, dtype=torch.float64) * input_scale).to(dtype)
        truth = block.truth(exact(x), training)
        result = run(Rounding(dtype), block, x)
        assert_bounded(result, result.value, truth)
        with torch.no_grad():
            assert_bounded(result, block(x), truth)
        tight = run(Rounding(torch.float64, native=dtype), block, x)
        assert_bounded(tight, tight.value, truth)


@given(seed=seeds)
def test_running_statistics_stay_within_their_bounds(seed):
    block = randomised(Block(), seed).train()
    x = torch.randn(2, 4, 3, 2)
    context = Rounding()
    weights = lifted(context, block)
    with torch.no_grad():
        functional_call(block, weights, (context.embed(x),))
        before = exact(block.first.running_mean), exact(block.first.running_var)
        block(x)
    y = convolve(exact(x), exact(block.reduce.weight))
    share = mpf(0.1)
    for name, old in zip(("running_mean", "running_var"), before, strict=True):
        result = weights[f"first.{name}"]
        truth = []
        for c in range(4):
            mean = y[:, c].mean()
            n = y[:, c].size
            batch = mean if name == "running_mean" else ((y[:, c] - mean) ** 2).sum() / mpf(n - 1)
            truth.append((1 - share) * old[c] + share * batch)
        assert_bounded(result, result.value, np.array(truth))
        assert_bounded(result, getattr(block.first, name), np.array(truth))


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@given(seed=seeds)
def test_input_gradients_stay_within_their_bounds(training, seed):
    dtype = FORMATS[seed % 2]
    block = randomised(Block(), seed).to(dtype).train(training)
    x = torch.randn(1, 4, 3, 2, dtype=dtype)
    cotangent = torch.randn(1, 4, 3, 2, dtype=dtype)
    context = Rounding(dtype)
    y = context.embed(x).requires_grad_()
    out = functional_call(block, lifted(context, block), (y,))
    (result,) = torch.autograd.grad(out, y, context.embed(cotangent))
    z = x.clone().requires_grad_()
    (computed,) = torch.autograd.grad(block(z), z, cotangent)
    cell = (0, seed % 4, seed % 3, seed % 2)
    dual = np.vectorize(Dual, otypes=[object])(exact(x))
    dual[cell].slope = mpf(1)
    slopes = (block.truth(dual, training) * exact(cotangent)).flatten()
    truth = np.array([sum(v.slope for v in slopes)], dtype=object)
    one = context.wrap(result.parts[(slice(None), *cell)].view(2, 1), result.state, dtype)
    assert_bounded(one, one.value, truth)
    assert_bounded(one, computed[cell].view(1), truth)


@given(seed=seeds, scale=scales)
def test_weight_gradients_and_a_step_stay_within_their_bounds(seed, scale):
    dtype = FORMATS[seed % 4]
    x = torch.randn(2, 2, 4, 3).to(dtype)
    w = (torch.randn(4, 1, 2, 2) * scale).to(dtype)
    g = torch.randn(2, 4, 3, 2).to(dtype)
    truth = np.empty(w.shape, dtype=object)
    ex, eg = exact(x), exact(g)
    for o, i, a, b in np.ndindex(*truth.shape):
        window = ex[:, o // 2 + i, a : a + 3, b : b + 2]
        truth[o, i, a, b] = (window * eg[:, o]).sum()
    step = exact(w) - mpf(0.1) * truth
    context = Rounding(dtype)
    for lift in (context.embed, lambda t: t.clone()):
        weight = lift(w).requires_grad_()
        out = torch.nn.functional.conv2d(lift(x), weight, groups=2)
        (gradient,) = torch.autograd.grad(out, weight, lift(g))
        with torch.no_grad():
            moved = lift(w).sub_(gradient, alpha=0.1)
        if lift == context.embed:
            bounded, bounded_step = gradient, moved
        for bound, computed, expected in (
            (bounded, gradient, truth),
            (bounded_step, moved, step),
        ):
            assert_bounded(bound, computed.value if lift == context.embed else computed, expected)


@given(seed=seeds, stride=st.integers(1, 2), padding=st.integers(0, 2), dilation=st.integers(1, 2))
def test_convolutions_of_any_geometry_stay_within_their_bounds(seed, stride, padding, dilation):
    dtype = FORMATS[seed % 4]
    generator = torch.Generator().manual_seed(seed)
    x = (torch.randn(1, 4, 5, 4, generator=generator) * 10.0 ** (seed % 30 - 15)).to(dtype)
    w = torch.randn(2, 2, 2, 2, generator=generator).to(dtype)
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": 2}
    context = Rounding(dtype)
    result = torch.nn.functional.conv2d(context.embed(x), context.embed(w), **options)
    truth = convolve(exact(x), exact(w), **options)
    assert_bounded(result, result.value, truth)
    assert_bounded(result, torch.nn.functional.conv2d(x, w, **options), truth)


def test_cancelling_branches_leave_their_rounding_errors_behind():
    context = Rounding()
    a, b = torch.full((50,), 1e8), torch.rand(50)
    total = context.embed(a) + context.embed(b) - context.embed(a)
    truth = exact(b)
    used = assert_bounded(total, (a + b) - a, truth)
    assert used > 0.1
    assert bool((total.bound < 100).all())


@pytest.mark.parametrize("order", [1, -1])
def test_sums_are_covered_in_any_order(order):
    context = Rounding()
    values = torch.cat([torch.tensor([1.0]), torch.full((2000,), 2.0**-24)])
    result = context.embed(values).sum()
    ordered = values.flip(0) if order < 0 else values
    computed = torch.tensor(0.0)
    for v in ordered:
        computed = computed + v
    assert_bounded(result, computed, np.array([exact(values).sum()]))


def test_how_tight_the_bounds_are(capsys):
    lines = []
    for channels, width, groups in ((16, 16, 4), (64, 32, 8)):
        block = randomised(Block(channels, width, groups), 3).eval()
        x = torch.randn(2, channels, 7, 7)
        result = run(Rounding(), block, x)
        with torch.no_grad():
            error = (block(x).double() - block.double()(x.double())).abs()
        used = (error / result.bound).nan_to_num(0).max().item()
        lines.append(f"{channels} channels, {groups} branches: 1/{1 / used:.0f} of the bound was used")
        assert used <= 1
    with capsys.disabled():
        print("", *lines, sep="\n")
