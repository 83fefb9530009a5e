"""A duplicate is the copy that `copy.deepcopy` makes, and shares nothing with what it is a copy of."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from equivalence.blocks.forms import FORMS
from equivalence.verdict.faults.duplicate import duplicate
from tests.strategies import block_specs, same_bits, state


@given(block_specs(), st.sampled_from(list(FORMS)), st.booleans())
def test_a_duplicate_of_a_block_is_its_deep_copy(spec, form, training):
    block = FORMS[form](spec).train(training)
    ours, theirs = duplicate(block), copy.deepcopy(block)
    assert repr(ours) == repr(theirs)
    assert same_bits(state(ours), state(theirs))
    assert [vars(part).keys() for part in ours.modules()] == [vars(part).keys() for part in theirs.modules()]
    assert [part.training for part in ours.modules()] == [training] * len(list(theirs.modules()))


@given(block_specs(), st.sampled_from(list(FORMS)))
def test_what_happens_to_a_duplicate_does_not_happen_to_the_block(spec, form):
    block = FORMS[form](spec)
    before = state(block)
    made = duplicate(block)
    with torch.no_grad():
        for tensor in made.state_dict().values():
            tensor.add_(1)
    for part in made.modules():
        part.register_forward_hook(lambda *_: None)
        part.extra = 1
    made.requires_grad_(False)
    assert same_bits(before, state(block))
    assert not any(part._forward_hooks or hasattr(part, "extra") for part in block.modules())
    assert all(p.requires_grad for p in block.parameters())


def test_what_was_shared_inside_stays_shared():
    layer = nn.Linear(2, 2)
    tied = nn.Sequential(layer, nn.Linear(2, 2), layer)
    tied[1].weight = layer.weight
    made = duplicate(tied)
    assert made[0] is made[2]
    assert made[1].weight is made[0].weight
    assert made[0] is not layer


def test_hooks_are_kept():
    layer = nn.Linear(2, 2)
    layer.register_forward_hook(lambda *_: torch.ones(1))
    assert duplicate(layer)(torch.zeros(2)).item() == 1


def test_gradients_are_not_copied_as_torch_does_not():
    layer = nn.Linear(2, 2)
    layer(torch.ones(2)).sum().backward()
    assert duplicate(layer).weight.grad is None


def test_a_class_of_somebody_else_s_says_how_it_is_copied():
    class Own(nn.Module):
        def __deepcopy__(self, memo):
            return "own way"

    assert duplicate(nn.Sequential(Own()))._modules["0"] == "own way"


@pytest.mark.parametrize("views", [torch.zeros(4)[1:3], torch.zeros(2, requires_grad=True)])
def test_unusual_buffers_are_copied_too(views):
    layer = nn.Module()
    layer.register_buffer("held", views)
    made = duplicate(layer)
    assert made.held is not views
    assert torch.equal(made.held, views)
    assert made.held.requires_grad == views.requires_grad
