"""Mistakes of the ladder itself that planted faults once brought to light."""

import pytest
import torch
import torch.nn.functional as F  # the customary name
from torch import nn

from equivalence import BlockSpec, Grouped, PerBranch, Verdict, check, transfer
from equivalence.arithmetic.field import Field
from equivalence.arithmetic.rounding import Rounding
from equivalence.verdict.faults import fault_named

SPEC = BlockSpec(in_channels=2, cardinality=2, width=2)


@pytest.mark.parametrize("activation", [F.leaky_relu, F.relu6, F.silu, F.elu, F.hardswish])
def test_a_gradient_that_is_a_view_keeps_its_elements(activation):
    """A cast to the dtype that a view already has once lost where the view starts."""
    x = torch.randn(1, 2, 3, 3)
    cotangent = torch.randn(1, 4, 3, 3)

    def gradient(leaf, grad):
        leaf = leaf.detach().requires_grad_()
        return torch.autograd.grad(torch.cat([leaf, activation(leaf)], 1), leaf, grad)[0]

    rounding = Rounding(torch.float64, native=torch.float32)
    found = gradient(rounding.embed(x), rounding.embed(cotangent))
    expected = gradient(x.double(), cotangent.double())
    assert ((found.value - expected).abs() <= found.bound + 1e-12).all()


@pytest.mark.parametrize("arithmetic", [Field(), Rounding()])
def test_a_cast_that_changes_nothing_is_the_same_elements(arithmetic):
    x = arithmetic.embed(torch.arange(8.0))
    assert torch.equal(x[4:].to(torch.float32).parts, x[4:].parts)


class ReplacesItsBuffer(nn.Module):
    """Subtracts a running mean, which it never writes in place."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight
        self.register_buffer("mean", torch.zeros(2, 1, 1))

    def forward(self, x):
        if self.training:
            self.mean = (1 - self.weight) * self.mean + self.weight * x.mean((0, 2, 3)).view(-1, 1, 1)
        return x - self.mean.detach() if not self.training else x


def test_statistics_that_are_replaced_instead_of_written_to_are_seen():
    left, right = ReplacesItsBuffer(0.5), ReplacesItsBuffer(0.25)
    report = check(left, right, input_shape=(2, 2, 3, 3), mode="train")
    assert report.verdict is Verdict.DIFFERENT
    assert check(left, ReplacesItsBuffer(0.5), input_shape=(2, 2, 3, 3), mode="train")


def test_branches_that_count_apart_are_no_error():
    a, c = PerBranch(SPEC), Grouped(SPEC)
    transfer(a, c)
    a.branches[1].reduce.norm.num_batches_tracked += 3
    assert check(a, c, mode="train").verdict is Verdict.EQUIVALENT  # with a momentum, nothing reads the counter


def test_a_branch_that_is_frozen_is_no_error():
    a, c = PerBranch(SPEC), Grouped(SPEC)
    transfer(a, c)
    report = check(fault_named("last-branch-frozen").plant(a), c, mode="train")
    assert report.verdict is Verdict.DIFFERENT
