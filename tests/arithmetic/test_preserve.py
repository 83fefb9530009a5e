"""A module that is observed is afterwards what it was, whatever it did."""

import contextlib
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from strategies import block_specs, blocks, inputs, same_bits, seeds, state
from torch import nn

from equivalence.arithmetic.preserve import as_found, random_state, seed_everything


class Unruly(nn.Module):
    """A module that has something of everything that can be changed."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.frozen = nn.Dropout().eval()
        self.weight = nn.Parameter(torch.tensor([1.0, -0.0, 2.0]))
        self.weight.grad = torch.tensor([1.0, 2.0, 3.0])
        self.register_parameter("absent", None)
        self.register_buffer("count", torch.tensor(3))
        self.register_buffer("scratch", None)


@torch.no_grad()
def writes_into_a_parameter(m):
    m.weight[1] = 0.0  # from −0 to +0


@torch.no_grad()
def exchanges_data(m):
    m.weight.data = torch.zeros(3)


def changes_dtype(m):
    m.half()


def replaces_a_parameter(m):
    m.weight = nn.Parameter(torch.zeros(3))


def adds_a_parameter_and_a_buffer(m):
    m.absent = nn.Parameter(torch.ones(2))
    m.scratch = torch.ones(2)
    m.register_buffer("late", torch.ones(2))


def deletes_a_buffer(m):
    del m.count


def counts(m):
    m.count += 1


def moves_running_statistics(m):
    m.norm(torch.randn(8, 3))


def changes_modes(m):
    m.norm.eval()
    m.frozen.train()
    m.training = False


def writes_into_a_gradient(m):
    m.weight.grad.zero_()


def drops_a_gradient(m):
    m.zero_grad(set_to_none=True)


def makes_a_gradient(m):
    m.norm(torch.randn(8, 3)).sum().backward()


def freezes(m):
    m.requires_grad_(False)


MISDEEDS = [
    writes_into_a_parameter,
    exchanges_data,
    changes_dtype,
    replaces_a_parameter,
    adds_a_parameter_and_a_buffer,
    deletes_a_buffer,
    counts,
    moves_running_statistics,
    changes_modes,
    writes_into_a_gradient,
    drops_a_gradient,
    makes_a_gradient,
    freezes,
]


def look(module):
    """Everything there is to see: identities, bits, gradients and modes."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    everything = {name: tensor.detach().clone() for name, tensor in tensors}
    gradients = {name: t.grad.clone() for name, t in tensors if t.grad is not None}
    identities = [(name, id(t), t.data_ptr(), t.dtype, t.requires_grad, id(t.grad)) for name, t in tensors]
    modes = [(name, part.training) for name, part in module.named_modules()]
    slots = [list(slot) for slot in (module._parameters, module._buffers)]
    return everything, gradients, (identities, modes, slots)


def same(left, right):
    return same_bits(left[0], right[0]) and same_bits(left[1], right[1]) and left[2] == right[2]


@pytest.mark.parametrize("misdeed", MISDEEDS, ids=lambda misdeed: misdeed.__name__)
def test_what_a_module_does_to_itself_is_undone(misdeed):
    module = Unruly()
    before = look(module)
    with as_found(module):
        misdeed(module)
        assert not same(look(module), before)
    assert same(look(module), before)


@pytest.mark.parametrize("misdeed", MISDEEDS, ids=lambda misdeed: misdeed.__name__)
def test_it_is_undone_also_when_the_module_fails(misdeed):
    module = Unruly()
    before = look(module)
    with contextlib.suppress(ZeroDivisionError), as_found(module):
        misdeed(module)
        raise ZeroDivisionError
    assert same(look(module), before)


def test_several_modules_that_share_a_part_are_all_brought_back():
    part = Unruly()
    modules = [nn.Sequential(part), nn.Sequential(part, nn.Tanh())]
    before = [look(module) for module in modules]
    with as_found(*modules):
        for misdeed in (counts, moves_running_statistics, changes_modes, drops_a_gradient):
            misdeed(part)
    assert all(same(look(module), seen) for module, seen in zip(modules, before, strict=True))


@given(spec=block_specs(), seed=seeds())
def test_a_block_that_was_trained_inside_is_as_before(spec, seed):
    for block in blocks(spec, seed):
        before = state(block)
        with as_found(block):
            block.train()(inputs(spec, seed)).sum().backward()
            with torch.no_grad():
                for parameter in block.parameters():
                    parameter.sub_(parameter.grad + 1)
            assert not same_bits(state(block), before)
        assert same_bits(state(block), before)
        assert all(parameter.grad is None for parameter in block.parameters())


def test_a_graph_that_the_user_holds_stays_valid():
    layer = nn.Linear(2, 2)
    loss = layer(torch.ones(1, 2)).square().sum()
    with as_found(layer):
        layer(torch.ones(1, 2))
    loss.backward()
    assert layer.weight.grad is not None


def draw():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


@pytest.mark.parametrize("manager", [random_state, as_found])
def test_random_generators_go_on_as_if_nothing_had_been_drawn(manager):
    seed_everything(5)
    expected = draw()
    seed_everything(5)
    with manager():
        inside = draw()
        seed_everything(9)
    assert draw() == expected == inside


def test_random_generators_come_back_also_after_an_error():
    seed_everything(5)
    expected = draw()
    seed_everything(5)
    with contextlib.suppress(ZeroDivisionError), random_state():
        draw()
        raise ZeroDivisionError
    assert draw() == expected


@given(seed=seeds())
def test_a_seed_starts_all_three_generators(seed):
    with random_state():
        seed_everything(seed)
        first = draw()
        seed_everything(seed)
        again = draw()
        seed_everything(seed + 1)
        other = draw()
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))
