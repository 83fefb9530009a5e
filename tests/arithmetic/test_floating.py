"""What `compare` reports is what a person finds who runs both modules by hand."""

import contextlib
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import block_specs, blocks, inputs, normal, same_bits, seeds, state
from torch import nn

from equivalence import BlockSpec, Concatenated, Grouped, PerBranch, compare, transfer

MODES = ("eval", "train")
SPEC = BlockSpec(in_channels=4, cardinality=2, width=3, stride=2)


def names(comparison):
    return [quantity.name for quantity in comparison.quantities]


@given(spec=block_specs(), seed=seeds(), mode=st.sampled_from(MODES))
def test_output_and_input_gradient_are_those_of_a_run_by_hand(spec, seed, mode):
    left, _, right = blocks(spec, seed)
    x = inputs(spec, seed)
    comparison = compare(left, right, x, mode=mode, gradients=True)
    by_hand = []
    for block in (left, right):
        leaf = x.clone().requires_grad_()
        output = block.train(mode == "train")(leaf)
        generator = torch.Generator().manual_seed(0)
        cotangent = torch.randn(output.shape, generator=generator, dtype=output.dtype)
        (slope,) = torch.autograd.grad(output, leaf, cotangent)
        by_hand.append((output.detach(), slope))
    for name, a, b in zip(("output", "input.grad"), *by_hand, strict=True):
        found = comparison[name]
        assert found.max_abs_diff == float((a - b).abs().max())
        assert (found.left, found.right) == (float(a[found.index]), float(b[found.index]))
        assert found.differing == int((a != b).sum())
    assert comparison.max_abs_diff == comparison["output"].max_abs_diff


@given(spec=block_specs(), seed=seeds(), mode=st.sampled_from(MODES))
def test_every_quantity_of_two_forms_is_reported(spec, seed, mode):
    left, right, _ = blocks(spec, seed)
    comparison = compare(left, right, inputs(spec, seed), mode=mode, gradients=True)
    stages = {"reduced", "transformed", "aggregated"}
    grouped = Grouped(spec)
    gradients = {f"{name}.grad" for name, _ in grouped.named_parameters()} | {"input.grad"}
    buffers = {name for name, _ in grouped.named_buffers()} if mode == "train" else set()
    assert set(names(comparison)) == {"output"} | stages | gradients | buffers
    assert len(names(comparison)) == len(set(names(comparison)))
    assert names(comparison)[0] == "output"
    assert comparison.mode == mode


@given(spec=block_specs(), seed=seeds())
def test_running_statistics_are_those_after_one_batch(spec, seed):
    left, right, _ = blocks(spec, seed)
    x = inputs(spec, seed)
    comparison = compare(left, right, x, mode="train")
    left.train()(x), right.train()(x)
    for name, buffer in left.named_buffers():
        if name.startswith("norm."):
            found, other = comparison[name], right.get_buffer(name)
            assert found.max_abs_diff == float((buffer - other).abs().max())


def test_stages_are_listened_to_where_they_are():
    left, _, right = blocks(SPEC, 0)
    x = inputs(SPEC, 0)
    found = compare(left, right, x)
    left.eval(), right.eval()
    reduced = torch.stack([branch.reduce(x) for branch in left.branches], dim=1)
    theirs = right.reduce(x).unflatten(1, (2, 3))
    by_hand = {
        "reduced": (reduced - theirs).abs().max(),
        "aggregated": (left.aggregated(x) - right.aggregated(x)).abs().max(),
    }
    assert {name: found[name].max_abs_diff for name in by_hand} == {
        name: value.item() for name, value in by_hand.items()
    }


def test_what_is_compared_can_be_chosen():
    left, _, right = blocks(SPEC, 0)
    x = inputs(SPEC, 0)
    assert names(compare(left, right, x, stages=False)) == ["output"]
    assert names(compare(left, right, x)) == ["output", "reduced", "transformed", "aggregated"]
    assert names(compare(nn.Tanh(), nn.ReLU(), x, gradients=True)) == ["output", "input.grad"]


def test_a_quantity_is_asked_for_by_its_name():
    comparison = compare(nn.Tanh(), nn.Tanh(), torch.ones(2))
    assert comparison["output"].equal
    with pytest.raises(KeyError, match=r"'reduced'; compared were \['output'\]"):
        comparison["reduced"]


# Modules are left as they were found.


def all_that_can_be_seen(module):
    gradients = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
    modes = [part.training for part in module.modules()]
    hooks = [len(p._forward_hooks) + len(p._forward_pre_hooks) for p in module.modules()]
    identities = [(n, id(t)) for n, t in [*module.named_parameters(), *module.named_buffers()]]
    return state(module), gradients, (modes, hooks, identities)


def unchanged(before, after):
    return all(same_bits(before[i], after[i]) for i in (0, 1)) and before[2] == after[2]


@given(spec=block_specs(), seed=seeds(), mode=st.sampled_from(MODES), gradients=st.booleans())
def test_modules_are_left_as_they_were_found(spec, seed, mode, gradients):
    left, _, right = blocks(spec, seed)
    left.train(), left.norm.eval()
    right.eval(), right.reduce.train()
    for parameter in right.parameters():
        parameter.grad = normal(parameter.shape, seed)
    right.register_forward_hook(lambda module, args, output: None)
    before = [all_that_can_be_seen(block) for block in (left, right)]
    x = inputs(spec, seed)
    compare(left, right, x, mode=mode, gradients=gradients)
    after = [all_that_can_be_seen(block) for block in (left, right)]
    assert all(map(unchanged, before, after))
    assert torch.equal(x, inputs(spec, seed))
    assert x.grad is None
    assert not x.requires_grad


def test_without_bringing_back_the_test_above_would_fail(monkeypatch):
    monkeypatch.setattr("equivalence.arithmetic.floating.as_found", contextlib.nullcontext)
    left, _, right = blocks(SPEC, 0)
    before = all_that_can_be_seen(left)
    compare(left, right, inputs(SPEC, 0), mode="train")
    assert not unchanged(before, all_that_can_be_seen(left))


class Raises(nn.Module):
    """Changes itself, draws, and fails."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(4, dtype=torch.float64)

    def forward(self, x):
        self.norm(x)
        draw()
        raise ZeroDivisionError


def draw():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


@pytest.mark.parametrize("fails", ["left", "right"])
def test_modules_are_left_as_they_were_found_when_one_fails(fails):
    modules = {"left": blocks(SPEC, 0)[0], "right": blocks(SPEC, 0)[2]} | {fails: Raises().eval()}
    before = [all_that_can_be_seen(module) for module in modules.values()]
    with pytest.raises(ZeroDivisionError):
        compare(*modules.values(), inputs(SPEC, 0), mode="train", gradients=True)
    assert all(map(unchanged, before, map(all_that_can_be_seen, modules.values())))


@pytest.mark.parametrize("module", [nn.Dropout(), Raises()], ids=["Dropout", "Raises"])
def test_random_generators_go_on_as_if_nothing_had_been_compared(module):
    def seeded():
        random.seed(3), np.random.seed(3), torch.manual_seed(3)

    seeded()
    expected = draw()
    seeded()
    try:
        compare(module, module, inputs(SPEC, 0), mode="train")
    except ZeroDivisionError:
        assert isinstance(module, Raises)
    assert draw() == expected


@pytest.mark.parametrize("mode", MODES)
def test_a_module_compared_with_itself_is_equal_in_everything(mode):
    for block in blocks(SPEC, 0):
        comparison = compare(block, block, inputs(SPEC, 0), mode=mode, gradients=True)
        assert all(quantity.equal for quantity in comparison.quantities)


# Both sides get the same.


def test_both_sides_draw_the_same_random_numbers():
    x = torch.ones(100)
    assert compare(nn.Dropout(), nn.Dropout(), x, mode="train")["output"].equal
    masks = [compare(nn.Dropout(0.1), nn.Identity(), x, mode="train", seed=i) for i in range(2)]
    assert masks[0]["output"].index != masks[1]["output"].index


class WritesIntoInput(nn.Module):
    """Doubles its input in place."""

    def forward(self, x):
        return x.mul_(2)


@pytest.mark.parametrize("gradients", [False, True])
def test_a_module_that_writes_into_its_input_does_not_spoil_the_other_side(gradients):
    class Doubles(nn.Module):
        """Doubles its input in a new tensor."""

        def forward(self, x):
            return 2 * x

    x = normal((2, 3), 0)
    for pair in [(WritesIntoInput(), Doubles()), (Doubles(), WritesIntoInput())]:
        comparison = compare(*pair, x, gradients=gradients)
        assert all(quantity.equal for quantity in comparison.quantities)
        assert len(comparison.quantities) == 1 + gradients
    assert torch.equal(x, normal((2, 3), 0))
    assert not compare(WritesIntoInput(), nn.Identity(), x)["output"].equal


def test_an_output_that_is_the_modules_own_tensor_is_what_was_returned():
    class Counts(nn.Module):
        """Returns a buffer that it writes into."""

        def __init__(self):
            super().__init__()
            self.register_buffer("total", torch.zeros(3))

        def forward(self, x):
            self.total += x
            return self.total

    module, x = Counts(), torch.ones(3)
    assert compare(module, nn.Identity(), x)["output"].equal
    assert not module.total.any()


def test_several_inputs_are_passed_on():
    class Sum(nn.Module):
        """One function of two inputs."""

        def forward(self, x, y):
            return x + 3 * y

    class Difference(nn.Module):
        """Another function of two inputs."""

        def forward(self, x, y):
            return x - 3 * y

    comparison = compare(Sum(), Difference(), (torch.ones(2), torch.ones(2)), gradients=True)
    assert names(comparison) == ["output", "input.grad", "input1.grad"]
    assert [q.equal for q in comparison.quantities] == [False, True, False]
    assert comparison.max_abs_diff == 6


# What can not be compared is said.


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_forms_are_compared_in_the_dtype_that_they_have(dtype):
    left, _, right = blocks(SPEC, 0, dtype)
    transfer(left, right)
    found = compare(left, right, inputs(SPEC, 0, dtype))["output"]
    assert found.max_abs_diff <= 8 * torch.finfo(dtype).eps * found.largest
    assert found.problem is None


class Doubled(nn.Module):
    """Answers in float64."""

    def forward(self, x):
        return x.double()


def test_outputs_of_other_shape_or_dtype_are_said():
    x = torch.ones(2, 3)
    flat = compare(nn.Flatten(0), nn.Identity(), x)
    assert flat["output"].problem == "shape (6,) against (2, 3)"
    wide = compare(nn.Identity(), Doubled(), x)
    assert wide["output"].problem == "dtype torch.float32 against torch.float64"


def test_a_gradient_that_is_there_on_one_side_only_is_said():
    class Detached(nn.Module):
        """Returns its input without a graph."""

        def forward(self, x):
            return x.detach().clone()

    found = compare(nn.Identity(), Detached(), torch.ones(2), gradients=True)
    assert found["input.grad"].problem == "only on the left"
    found = compare(Detached(), nn.Identity(), torch.ones(2), gradients=True)
    assert found["input.grad"].problem == "only on the right"


def test_a_branch_that_is_cut_off_has_the_gradient_zero():
    left, _, right = blocks(SPEC, 0)
    transfer(left, right)
    left.branches[1].register_forward_hook(lambda module, args, output: output.detach())
    found = compare(left, right, inputs(SPEC, 0), gradients=True)["reduce.conv.weight.grad"]
    assert found.index[0] == 1
    assert found.left == 0
    assert found.max_abs_diff == abs(found.right) > 1e-3


def test_a_gradient_that_some_branches_lack_is_said():
    left, _, right = blocks(SPEC, 0)
    left.branches[1].expand.weight.requires_grad_(False)
    comparison = compare(left, right, inputs(SPEC, 0), gradients=True)
    assert comparison["expand.weight.grad"].problem == "only on the right"
    assert comparison["reduce.conv.weight.grad"].problem is None


def test_integers_have_no_gradient():
    table = nn.Embedding(3, 2)
    assert names(compare(table, table, torch.tensor([1]), gradients=True)) == ["output"]


def test_nan_in_an_output_is_counted():
    x = normal((2, 4, 5, 5), 0)
    x[0, 0, 0, 0] = torch.nan
    left, _, right = blocks(SPEC, 0)
    transfer(left, right)
    broken, whole = (
        compare(left, right, x)["output"],
        compare(left, right, x.nan_to_num())["output"],
    )
    assert broken.non_finite[0] == broken.non_finite[1] > 0 == sum(whole.non_finite)


def test_comparing_nothing_is_an_error():
    with pytest.raises(ValueError, match=r"^output has shape \(0, 3\): no elements, nothing comp"):
        compare(nn.Identity(), nn.Identity(), torch.ones(0, 3))


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_module_that_returns_no_tensor_is_an_error(side):
    class Twice(nn.Module):
        """Returns no tensor, but two."""

        def forward(self, x):
            return x, x

    modules = {"left": nn.Identity(), "right": nn.Identity()} | {side: Twice()}
    with pytest.raises(TypeError) as refused:
        compare(**modules, inputs=torch.ones(2))
    assert str(refused.value) == f"{side} returned a tuple, but must return one tensor"


def test_an_unknown_mode_is_an_error():
    with pytest.raises(ValueError, match=r"^mode \(='test'\) must be 'eval' or 'train'$"):
        compare(nn.Identity(), nn.Identity(), torch.ones(2), mode="test")


def test_forms_of_two_specs_are_compared_as_any_two_modules():
    other = BlockSpec(**SPEC.to_dict() | {"width": 2})
    left, right = PerBranch(SPEC).double(), Concatenated(other).double()
    assert names(compare(left, right, inputs(SPEC, 0), mode="train")) == ["output"]
