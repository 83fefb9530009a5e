"""Training goes on in another form as if it had begun there."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import FORMS, block_specs, blocks, inputs, same_bits, state

from equivalence import BlockSpec, Grouped, PerBranch, TransferError, transfer

SPEC = BlockSpec(in_channels=6, cardinality=2, width=3, bias=(True, True, True))

OPTIMIZERS = {
    "SGD": lambda ps: torch.optim.SGD(ps, lr=0.01, momentum=0.9, nesterov=True),
    "Adam": lambda ps: torch.optim.Adam(ps, lr=0.01, eps=1e-3, amsgrad=True),
    "RMSprop": lambda ps: torch.optim.RMSprop(ps, lr=0.01, eps=1e-3, momentum=0.9),
}


def step(block, optimizer, spec, seed):
    optimizer.zero_grad()
    y = block(inputs(spec, seed))
    (y - torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).square().mean().backward()
    optimizer.step()
    return y.detach()


def remembered(block, optimizer):
    """What an optimiser keeps, by parameter and key; numbers as tensors."""
    return {
        f"{name} {key}": torch.as_tensor(value).clone()
        for name, parameter in block.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if value is not None
    }


def trained(spec, seed, optimizer):
    """The three forms, each after two steps of its own training."""
    forms = blocks(spec, seed)
    optimizers = [OPTIMIZERS[optimizer](form.parameters()) for form in forms]
    for form, own in zip(forms, optimizers, strict=True):
        for i in range(2):
            step(form, own, spec, seed + i)
    return forms, optimizers


pairs = st.tuples(*[st.sampled_from(range(3))] * 2)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@given(spec=block_specs(), seed=st.integers(0, 1000), pair=pairs)
def test_training_goes_on_identically_in_another_form(optimizer, spec, seed, pair):
    forms, optimizers = trained(spec, seed, optimizer)
    others, their_optimizers = trained(spec, seed + 100, optimizer)
    left, mine = forms[pair[0]], optimizers[pair[0]]
    right, theirs = others[pair[1]], their_optimizers[pair[1]]
    transfer(left, right, gradients=True, optimizers=(mine, theirs))
    for i in range(3):
        ours, other = (step(b, o, spec, seed + i) for b, o in ((left, mine), (right, theirs)))
        assume(ours.abs().max() > 1e-3)
        assert (ours - other).abs().max() <= 1e-12 * ours.abs().max()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@given(spec=block_specs(), seed=st.integers(0, 1000), pair=pairs)
def test_what_an_optimiser_remembers_survives_a_round_trip(optimizer, spec, seed, pair):
    forms, optimizers = trained(spec, seed, optimizer)
    others, their_optimizers = trained(spec, seed + 100, optimizer)
    fresh = FORMS[pair[0]](spec).double()
    fresh_optimizer = OPTIMIZERS[optimizer](fresh.parameters())
    source, mine = forms[pair[0]], optimizers[pair[0]]
    middle, theirs = others[pair[1]], their_optimizers[pair[1]]
    before = remembered(source, mine)
    transfer(source, middle, optimizers=(mine, theirs))
    transfer(middle, fresh, optimizers=(theirs, fresh_optimizer))
    assert len(before) >= len(list(source.parameters()))
    assert same_bits(remembered(fresh, fresh_optimizer), before)
    assert same_bits(remembered(source, mine), before)
    assert fresh_optimizer.state_dict()["state"].keys() == mine.state_dict()["state"].keys()


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_without_the_optimiser_training_goes_on_otherwise(optimizer):
    (left, _, _), (mine, _, _) = trained(SPEC, 0, optimizer)
    (_, _, right), (_, _, theirs) = trained(SPEC, 100, optimizer)
    transfer(left, right, gradients=True)
    before, after = ([step(b, o, SPEC, i) for b, o in ((left, mine), (right, theirs))] for i in range(2))
    assert torch.allclose(*before, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(*after, rtol=1e-6)


def test_the_two_optimisers_share_no_memory():
    (left, _, right), (mine, _, theirs) = trained(SPEC, 0, "Adam")
    transfer(left, right, optimizers=(mine, theirs))
    own = {t.untyped_storage().data_ptr() for e in mine.state.values() for t in e.values()}
    their = {t.untyped_storage().data_ptr() for e in theirs.state.values() for t in e.values()}
    assert own.isdisjoint(their)


def test_moments_take_the_dtype_of_the_target():
    left, right = PerBranch(SPEC), Grouped(SPEC).double()
    mine, theirs = (OPTIMIZERS["SGD"](b.parameters()) for b in (left, right))
    left(inputs(SPEC, 0, torch.float32)).sum().backward()
    mine.step()
    transfer(left, right, optimizers=(mine, theirs))
    assert {value.dtype for value in remembered(right, theirs).values()} == {torch.float64}


def test_an_optimiser_that_has_not_stepped_makes_the_other_forget():
    left = PerBranch(SPEC).double()
    (_, _, right), (_, _, theirs) = trained(SPEC, 0, "SGD")
    transfer(left, right, optimizers=(OPTIMIZERS["SGD"](left.parameters()), theirs))
    assert remembered(right, theirs) == {}


def test_parameters_that_are_not_optimised_are_left_alone():
    def some(block):
        return [p for name, p in block.named_parameters() if "expand" not in name]

    left, _, right = blocks(SPEC, 0)
    mine, theirs = (OPTIMIZERS["SGD"](some(block)) for block in (left, right))
    step(left, mine, SPEC, 0)
    with pytest.raises(TransferError, match=r"^optimiser settings of expand.weight are \{'lr': 0.01"):
        transfer(left, right, optimizers=(mine, OPTIMIZERS["SGD"](right.parameters())))
    left.bias = torch.nn.Parameter(left.bias.detach())
    mine = OPTIMIZERS["SGD"]([p for p in some(left) if p is not left.bias])
    step(left, mine, SPEC, 0)
    transfer(left, right, optimizers=(mine, theirs))
    kept = {name.split()[0] for name in remembered(right, theirs)}
    assert kept == {n for n, _ in right.named_parameters() if "expand" not in n}
    assert len(theirs.state_dict()["state"]) == len(kept)


# What does not fit.


def refusal(left, right):
    """The message with which a transfer between blocks with these optimisers is refused."""
    blocks_before = [state(block) for block, _ in (left, right)]
    memory = remembered(*right)
    with pytest.raises(TransferError) as refused:
        transfer(left[0], right[0], optimizers=(left[1], right[1]))
    assert same_bits(state(right[0]), blocks_before[1])
    assert same_bits(state(left[0]), blocks_before[0])
    assert same_bits(remembered(*right), memory)
    return str(refused.value)


def test_optimisers_of_two_classes_are_refused():
    (left, _, _), (mine, _, _) = trained(SPEC, 0, "SGD")
    (_, _, right), (_, _, theirs) = trained(SPEC, 1, "Adam")
    message = refusal((left, mine), (right, theirs))
    assert message == "optimisers are SGD and Adam, but must be one class"


def test_optimisers_of_two_settings_are_refused():
    (left, _, right), (mine, _, theirs) = trained(SPEC, 0, "SGD")
    theirs.param_groups[0]["lr"] = 0.5
    message = refusal((left, mine), (right, theirs))
    assert message.startswith("optimiser settings of reduce.conv.weight are {'lr': 0.5, ")
    assert ", but the source has {'lr': 0.01, " in message


def test_branches_with_settings_of_their_own_can_not_be_grouped():
    left, _, right = blocks(SPEC, 0)
    first, second = (list(branch.parameters()) for branch in left.branches)
    rest = [p for name, p in left.named_parameters() if not name.startswith("branches")]
    mine = torch.optim.SGD([{"params": first + rest}, {"params": second, "lr": 0.5}], lr=0.1)
    theirs = torch.optim.SGD(right.parameters(), lr=0.1)
    message = refusal((left, mine), (right, theirs))
    assert message == ("the optimiser's group of reduce.conv.weight is one value, but branches have [0, 1]")


def test_branches_that_made_other_numbers_of_steps_can_not_be_grouped():
    (left, _, right), (mine, _, theirs) = trained(SPEC, 0, "Adam")
    mine.state[left.branches[1].expand.weight]["step"] += 1
    message = refusal((left, mine), (right, theirs))
    assert message.startswith("step of expand.weight is one value, but branches have [")


def test_what_belongs_to_no_scalar_can_not_move():
    left, _, right = blocks(SPEC, 0)
    mine, theirs = (torch.optim.Adafactor(block.parameters()) for block in (left, right))
    step(left, mine, SPEC, 0)
    message = refusal((left, mine), (right, theirs))
    assert message.endswith(" belongs to no scalar of it, so the optimiser's state can not be moved")
