"""What is certain and what is not: comparisons, control flow, casts, exact zeros, and what says
nothing.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from test_rounding_truth import FORMATS
from torch import nn
from torch.func import functional_call

from equivalence.arithmetic.errors import UnsupportedOperation
from equivalence.arithmetic.location import locating
from equivalence.arithmetic.rounding import Rounding


@pytest.fixture
def context():
    return Rounding()


def uncertain(context, values, bound):
    x = context.embed(torch.tensor(values))
    x.parts[1] = bound
    x.state.exact = False
    return x


def test_comparisons_of_exact_numbers_are_certain(context):
    x = context.embed(torch.tensor([-1.0, 0.0, 1.0]))
    for mask in (x > 0, x >= 0, x < 0, x <= 0, x == 0, x != 0):
        assert not mask.bound.any()
    assert (x >= 0).value.tolist() == [0, 1, 1]
    assert (x != 0).value.tolist() == [1, 0, 1]


def test_comparisons_within_the_bound_are_open(context):
    x = uncertain(context, [-1.0, -0.1, 0.0, 0.1, 1.0], 0.1)
    assert (x > 0).bound.tolist() == [0, 1, 1, 1, 0]
    assert (x == 0).bound.tolist() == [0, 1, 1, 1, 0]
    assert ((x > 0) | (x <= 2)).bound.tolist() == [0] * 5
    assert ((x > 0) & (x > 2)).bound.tolist() == [0] * 5


def test_masks_add_up_to_masks(context):
    x = context.embed(torch.tensor([-1.0, 0.0, 1.0]))
    both = (x >= 0) + (x <= 0)
    assert both.dtype is torch.bool
    assert both.value.tolist() == [1, 1, 1]
    assert ((x >= 0).sum() == 2).item() is True


def test_a_program_may_branch_on_what_is_certain(context):
    x = uncertain(context, [3.0, 4.0], 0.1)
    assert (x.sum() > 1).item() is True
    assert bool(x.sum() < 1) is False
    with pytest.raises(UnsupportedOperation, match="a comparison that rounding leaves open"):
        bool(x.sum() > 7)
    with pytest.raises(UnsupportedOperation, match="rounding leaves open"):
        float(x.sum())
    assert float(context.embed(torch.tensor(0.3))) == torch.tensor(0.3).item()


def test_an_open_gate_passes_all_or_nothing(context):
    x = uncertain(context, [-1.0, 0.01, 1.0], 0.1).requires_grad_()
    (gradient,) = torch.autograd.grad(torch.relu(x).sum(), x)
    assert gradient.value.tolist() == [0, 1, 1]
    assert gradient.bound[0] == 0
    assert gradient.bound[1] >= 1
    assert gradient.bound[2] == 0


def test_an_open_maximum_may_send_its_gradient_to_either(context):
    x = uncertain(context, [[[[1.0, 1.05], [0.0, 0.9]]]], 0.1).requires_grad_()
    (gradient,) = torch.autograd.grad(F.max_pool2d(x, 2).sum(), x)
    assert gradient.value.flatten().tolist() == [0, 1, 0, 0]
    assert (gradient.bound.flatten() >= 1).tolist() == [True, True, False, True]
    y = uncertain(context, [[[[1.0, 5.0], [0.0, 0.9]]]], 0.1).requires_grad_()
    (gradient,) = torch.autograd.grad(F.max_pool2d(y, 2).sum(), y)
    assert gradient.bound.max() < 1e-5


@pytest.mark.parametrize("options", [(2,), (3, 2, 1), (3, 1, 1), (3, 2, 0, 1, True), (2, 1, 1, 2)])
def test_overlapping_maxima_send_gradients_where_torch_does(context, options):
    kernel, stride, padding, dilation, ceil = (*options, *(2, 0, 1, False)[len(options) - 1 :])
    x = torch.randn(2, 3, 6, 7)
    weights = torch.randn_like(F.max_pool2d(x, kernel, stride, padding, dilation, ceil))
    results = []
    for lift in (context.embed, torch.clone):
        y = lift(x).requires_grad_()
        out = F.max_pool2d(y, kernel, stride, padding, dilation, ceil)
        results.append(torch.autograd.grad((out * lift(weights)).sum(), y)[0])
    assert ((results[1] - results[0].value).abs() <= results[0].bound).all()
    assert results[0].bound.max() < 1e-4


def test_casts_to_a_coarser_format_are_functions(context):
    x = uncertain(context, [1.0, 1.0 + 2.0**-8, 3.3], 1e-7)
    y = x.bfloat16()
    assert y.dtype is torch.bfloat16
    assert y.value.tolist() == torch.tensor([1.0, 1.0 + 2.0**-8, 3.3]).bfloat16().tolist()
    assert y.bound[0] == 0
    assert y.bound[1] >= 2.0**-7
    assert x.double().float().value.tolist() == x.value.tolist()
    assert (x.double().bound == x.bound).all()


def test_exact_zeros_stay_exact(context):
    x = context.embed(torch.zeros(1, 2, 4, 4))
    w = context.embed(torch.randn(2, 2, 3, 3))
    assert not F.conv2d(x, w).bound.any()
    assert not (x * 3.3 + x).relu().bound.any()
    tiny = context.embed(torch.full((1, 1), 1e-44))
    assert torch.mm(tiny, tiny).bound > 0
    smallest = Rounding(torch.float64).embed(torch.full((1, 1), 1e-200, dtype=torch.float64))
    assert torch.mm(smallest, smallest).bound > 0
    assert (smallest * smallest).bound > 0


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_what_is_not_finite_says_nothing(dtype):
    context = Rounding(dtype)
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), 1.0], dtype=dtype)
    y = context.embed(x)
    functions = (
        lambda t: t + 1, lambda t: t * 0, lambda t: t - t, lambda t: 1 / t,
        torch.relu, torch.sigmoid, torch.tanh,
        torch.exp, torch.sqrt, torch.abs, torch.sign, F.gelu, F.silu, torch.floor,
        lambda t: t.clamp(0, 1),
        lambda t: t.softmax(0), lambda t: t.cumsum(0), F.hardswish, F.leaky_relu, lambda t: t**3,
    )  # fmt: skip
    for function in functions:
        assert function(y).bound[:3].isinf().all()
    assert (torch.where(y > 0, 1.0, 0.0).bound[:3] >= 1).all()
    assert y.sum().bound.isinf()
    assert F.layer_norm(y, (4,)).bound.isinf().all()


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_overflow_of_the_simulated_format_says_nothing(dtype):
    context = Rounding(dtype)
    big = torch.full((2, 2), torch.finfo(dtype).max * 0.9, dtype=dtype)
    x = context.embed(big)
    assert (x + x).bound.isinf().all()
    assert (x * 2).bound.isinf().all()
    assert (x @ x).bound.isinf().all()
    assert x.sum().bound.isinf()
    assert (x - x).bound.isfinite().all()
    # the sum is small, but in some order it overflows on the way
    cancelling = context.embed(torch.stack((big, -big)))
    assert cancelling.sum(0).bound.isinf().all()
    assert cancelling.mean(0).bound.isinf().all()
    assert torch.exp(context.embed(torch.full((1,), 800.0, dtype=dtype))).bound.isinf().all()


def test_an_operation_without_a_rule_is_named(context):
    class Resampling(nn.Module):
        def forward(self, x):
            return F.interpolate(x, scale_factor=2, mode="bilinear")

    module = nn.Sequential(nn.ReLU(), Resampling())
    x = context.embed(torch.randn(1, 1, 3, 3))
    with (
        pytest.raises(UnsupportedOperation, match=r"upsample_bilinear2d.*submodule '1'"),
        locating(module),
    ):
        module(x)
    with pytest.raises(UnsupportedOperation, match="random"):
        F.dropout(x, training=True)


def test_an_unknown_format_is_refused():
    with pytest.raises(ValueError, match="choose one of float64, float32"):
        Rounding(torch.int32)


def test_unlifted_statistics_are_not_overwritten(context):
    module = nn.BatchNorm2d(2)
    with pytest.raises(UnsupportedOperation, match="plain float tensor"):
        functional_call(module, {}, (context.embed(torch.randn(1, 2, 2, 2)),))
    assert module.running_mean.tolist() == [0, 0]
