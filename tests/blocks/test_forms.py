"""The three forms are one function of corresponding weights, and of nothing less."""

import math

import pytest
import torch
from hypothesis import assume, event, example, given
from hypothesis import strategies as st
from strategies import FORMS, block_specs, blocks, inputs, seeds, state
from torch import nn

from equivalence import BlockSpec, Concatenated, Grouped, PerBranch, compare, transfer

MODES = ("eval", "train")
SEED_BLOCK = BlockSpec(in_channels=256, cardinality=32, width=4)


def transferred(spec, seed):
    """The three forms in float64, with the weights of the first."""
    forms = blocks(spec, seed)
    for target in forms[1:]:
        transfer(forms[0], target)
    return forms


def disagreement(left, right, x, mode):
    """The greatest difference of outputs and stages, gradients, and state, each to its scale."""
    comparison = compare(left, right, x, mode=mode, gradients=True)
    if any(quantity.problem for quantity in comparison.quantities):
        return math.inf
    # A bias before a norm has the gradient zero, so it takes all gradients to tell what is small.
    slopes = [q for q in comparison.quantities if q.name.endswith(".grad")]
    values = [q for q in comparison.quantities if not q.name.endswith(".grad")]
    steepest = max(q.largest for q in slopes) or 1
    return max(
        *(q.max_abs_diff / (q.largest or 1) for q in values),
        *(q.max_abs_diff / steepest for q in slopes),
    )


@given(spec=block_specs(), seed=seeds(), mode=st.sampled_from(MODES))
@example(spec=BlockSpec(in_channels=64, cardinality=32, width=2), seed=0, mode="train")
def test_the_forms_agree_after_transfer(spec, seed, mode):
    per_branch, concatenated, grouped = transferred(spec, seed)
    x = inputs(spec, seed)
    event(f"norm={spec.norm}, shortcut={spec.shortcut}")
    assert disagreement(per_branch, concatenated, x, mode) <= 1e-12
    assert disagreement(per_branch, grouped, x, mode) <= 1e-12


@given(spec=block_specs(), seed=seeds(), mode=st.sampled_from(MODES))
def test_the_forms_disagree_before_transfer(spec, seed, mode):
    per_branch, concatenated, grouped = blocks(spec, seed)
    x = inputs(spec, seed)
    assert disagreement(per_branch, concatenated, x, mode) > 1e-6
    assert disagreement(per_branch, grouped, x, mode) > 1e-6


@given(spec=block_specs(), seed=seeds())
def test_what_the_forms_return_agrees_without_our_own_comparison(spec, seed):
    outputs = [form(inputs(spec, seed)) for form in transferred(spec, seed)]
    scale = outputs[0].abs().max()
    assert all((output - outputs[0]).abs().max() <= 1e-12 * scale for output in outputs[1:])


# Each fault is one mistake that published ports have made, planted in a grouped block whose expand
# weights are square and whose state nowhere repeats.


@torch.no_grad()
def expand_sliced_on_axis_0(block):
    block.expand.weight.copy_(block.expand.weight.transpose(0, 1).clone())


@torch.no_grad()
def branches_swapped_in_one_tensor(block):
    block.transform.conv.weight.copy_(block.transform.conv.weight.roll(block.spec.width, 0))


@torch.no_grad()
def channels_interleaved(block):
    weight = block.reduce.conv.weight
    halves = weight.unflatten(0, (block.spec.cardinality, block.spec.width))
    weight.copy_(halves.transpose(0, 1).flatten(0, 1))


def running_mean_not_copied(block):
    block.transform.norm.running_mean.zero_()


def running_variance_not_copied(block):
    block.reduce.norm.running_var.fill_(1)


@torch.no_grad()
def gamma_not_copied(block):
    block.norm.weight.fill_(1)


def eps_changed(block):
    block.norm.eps = 2e-5


def momentum_changed(block):
    block.reduce.norm.momentum = 0.2


def gradient_cut(block):
    block.transform.register_forward_hook(lambda module, args, output: output.detach())


def stride_in_the_wrong_convolution(block):
    block.reduce.conv.stride, block.transform.conv.stride = (2, 2), (1, 1)


def no_activation_after_the_addition(block):
    block.activation = nn.Identity()


SEEN_IN = {
    expand_sliced_on_axis_0: MODES,
    branches_swapped_in_one_tensor: MODES,
    channels_interleaved: MODES,
    running_mean_not_copied: MODES,  # in training they move, from where they started
    running_variance_not_copied: MODES,
    gamma_not_copied: MODES,
    eps_changed: MODES,
    momentum_changed: ("train",),
    gradient_cut: MODES,
    stride_in_the_wrong_convolution: MODES,
    no_activation_after_the_addition: MODES,
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fault", SEEN_IN, ids=lambda fault: fault.__name__)
def test_a_planted_mistake_is_a_disagreement(fault, mode):
    spec = BlockSpec(in_channels=6, out_channels=6, cardinality=2, width=3, stride=2)
    per_branch, _, grouped = transferred(spec, seed=1)
    x = inputs(spec, seed=2)
    assert disagreement(per_branch, grouped, x, mode) <= 1e-12
    fault(grouped)
    assert (disagreement(per_branch, grouped, x, mode) > 1e-9) == (mode in SEEN_IN[fault])


# Training.


def sgd(block):
    return torch.optim.SGD(block.parameters(), lr=0.01, momentum=0.9)


def adam(block):
    # Where a gradient is zero, Adam divides rounding by rounding; eps keeps that small.
    return torch.optim.Adam(block.parameters(), lr=0.01, eps=1e-3)


def trained(block, optimizer, spec, seed, steps=10):
    """The block's outputs in evaluation mode after some steps towards random goals."""
    block.train()
    for step in range(steps):
        optimizer.zero_grad()
        y = block(inputs(spec, seed + step))
        (y - torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).square().mean().backward()
        optimizer.step()
    return block.eval()(inputs(spec, seed)).detach()


def apart(outputs):
    scale = max(output.abs().max() for output in outputs)
    return max(float((y - outputs[0]).abs().max() / scale) for y in outputs[1:])


@pytest.mark.parametrize("optimizer", [sgd, adam])
@given(spec=block_specs(), seed=st.integers(0, 1000))
def test_ten_training_steps_keep_transferred_forms_together(optimizer, spec, seed):
    forms = transferred(spec, seed)
    before = state(forms[0])
    outputs = [trained(form, optimizer(form), spec, seed) for form in forms]
    assume(max(output.abs().max() for output in outputs) > 1e-3)  # neither dead nor all zero
    assume(any((before[name] != value).any() for name, value in state(forms[0]).items()))  # something learns
    assert apart(outputs) <= 1e-9


@pytest.mark.parametrize("optimizer", [sgd, adam])
def test_the_same_steps_do_not_bring_other_forms_together(optimizer):
    spec = BlockSpec(in_channels=6, cardinality=3, width=2)
    outputs = [trained(form, optimizer(form), spec, 0) for form in blocks(spec, seed=0)]
    assert apart(outputs) > 1e-2


# What a block is: its parameters, its distribution, its order of operations.


def parameter_count(block):
    return sum(parameter.numel() for parameter in block.parameters())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("template", "weights"),
    [
        ("1x64d", 69_632),
        ("2x40d", 69_760),
        ("4x24d", 69_888),
        ("8x14d", 71_456),
        ("32x4d", 70_144),
    ],
)
def test_convolutions_have_as_many_weights_as_in_table_2(template, weights, form):
    spec = BlockSpec.from_template(template, in_channels=256, norm="none")
    assert parameter_count(form(spec)) == weights


@pytest.mark.parametrize("form", FORMS)
def test_norms_and_biases_are_counted_once(form):
    with_bias = BlockSpec(in_channels=256, cardinality=32, width=4, bias=(False, True, False))
    assert parameter_count(form(SEED_BLOCK)) == 70_144 + 2 * (128 + 128 + 256) == 71_168
    assert parameter_count(form(with_bias)) == 71_168 + 128


@given(spec=block_specs())
def test_the_forms_have_equally_many_parameters(spec):
    assert len({parameter_count(form(spec)) for form in FORMS}) == 1


def weights_by_stage(block):
    """All weights of each stage's convolutions as one vector."""
    stages = {}
    for name, parameter in block.named_parameters():
        if parameter.dim() > 1:
            (stage,) = {"reduce", "transform", "expand", "shortcut"} & set(name.split("."))
            stages.setdefault(stage, []).append(parameter.detach().flatten())
    return {stage: torch.cat(weights) for stage, weights in stages.items()}


@pytest.mark.parametrize("form", FORMS)
def test_initial_weights_of_every_form_are_from_one_normal_distribution(form):
    torch.manual_seed(0)
    spec = BlockSpec(in_channels=64, out_channels=128, cardinality=8, width=8, stride=2)
    fan_out = {"reduce": 64, "transform": 9 * 64, "expand": 128, "shortcut": 128}
    for stage, weights in weights_by_stage(form(spec)).items():
        standard = weights / math.sqrt(2 / fan_out[stage])
        spread = 5 / math.sqrt(weights.numel())  # five deviations of a sample's mean
        assert abs(float(standard.mean())) < spread
        assert abs(float(standard.std()) - 1) < spread
        assert abs(float((standard.abs() < 1).float().mean()) - 0.6827) < spread


def test_initial_weights_are_all_independent():
    torch.manual_seed(0)
    spec = BlockSpec(in_channels=16, cardinality=4, width=4)
    values = torch.cat([v for form in FORMS for v in weights_by_stage(form(spec)).values()])
    assert len(set(values.tolist())) > 0.99 * values.numel()  # in float32 a few coincide
    branches = PerBranch(spec).branches
    vectors = torch.stack([b.reduce.conv.weight.detach().flatten() for b in branches])
    assert torch.corrcoef(vectors).triu(1).abs().max() < 0.5


@given(spec=block_specs())
def test_fresh_biases_are_zero_and_fresh_norms_do_nothing(spec):
    for name, tensor in Grouped(spec).state_dict().items():
        if name.endswith(("bias", "running_mean", "num_batches_tracked")):
            assert not tensor.any()
        elif tensor.dim() == 1:
            assert (tensor == 1).all()


def test_order_of_operations_is_that_of_footnote_6():
    geometry = {"stride": 2, "dilation": 2, "padding": 2}
    spec = BlockSpec(in_channels=6, cardinality=3, width=2, stride=2, dilation=2, bias=(True,) * 3, eps=0.1)
    x = inputs(spec, 0)
    block, _, _ = blocks(spec, 0)
    block.eval()
    f = nn.functional

    def norm(y, of):
        shape = (1, -1, 1, 1)
        scale = of.weight / (of.running_var + spec.eps).sqrt()
        return (y - of.running_mean.view(shape)) * scale.view(shape) + of.bias.view(shape)

    total = block.bias.view(1, -1, 1, 1)
    for branch in block.branches:
        reduce, transform = branch.reduce, branch.transform
        y = f.conv2d(x, reduce.conv.weight, reduce.conv.bias)
        y = norm(y, reduce.norm).relu()
        y = f.conv2d(y, transform.conv.weight, transform.conv.bias, **geometry)
        y = norm(y, transform.norm).relu()
        total = total + f.conv2d(y, branch.expand.weight)
    shortcut = norm(f.conv2d(x, block.shortcut.conv.weight, stride=2), block.shortcut.norm)
    expected = (norm(total, block.norm) + shortcut).relu()
    assert torch.allclose(block(x), expected, rtol=1e-12, atol=1e-12)
    # The order is no matter of taste: a norm before the addition is not one after it.
    assert not torch.allclose(block(x), norm(total + shortcut, block.norm).relu(), rtol=1e-3)


@pytest.mark.parametrize(("momentum", "weight"), [(0.25, 0.25), (0.0, 0.0), (None, 1)])
def test_running_statistics_follow_the_momentum_of_the_spec(momentum, weight):
    spec = BlockSpec(in_channels=4, cardinality=2, width=2, momentum=momentum)
    x = inputs(spec, 0)
    for block in blocks(spec, 0):
        block.norm.num_batches_tracked.zero_()  # with no momentum, this is the first of all
        y, before = block.aggregated(x).detach(), block.norm.running_mean.clone()
        block.train()(x)
        expected = (1 - weight) * before + weight * y.mean(dim=(0, 2, 3))
        assert torch.allclose(block.norm.running_mean, expected, rtol=1e-12)


@given(spec=block_specs(), seed=seeds(), form=st.sampled_from(FORMS))
def test_an_output_has_the_channels_and_sizes_of_the_spec(spec, seed, form):
    x = inputs(spec, seed, torch.float32)
    sizes = [math.ceil(size / spec.stride) for size in x.shape[2:]]
    assert form(spec)(x).shape == (x.shape[0], spec.out_channels, *sizes)


@given(spec=block_specs(stride=1, out_channels=4, in_channels=4), seed=seeds())
def test_no_form_writes_into_its_input(spec, seed):
    x = inputs(spec, seed)
    for form in blocks(spec, seed):
        form(x)
        assert torch.equal(x, inputs(spec, seed))


def test_a_shortcut_of_none_adds_nothing():
    spec = BlockSpec(in_channels=4, cardinality=2, width=2, shortcut="none", activation="tanh")
    grouped = blocks(spec, 0)[2].eval()
    x = inputs(spec, 0)
    assert torch.equal(grouped(x), grouped.norm(grouped.aggregated(x)).tanh())


@pytest.mark.parametrize("form", FORMS)
def test_a_block_prints_its_form_and_template(form):
    shown = repr(form(SEED_BLOCK))
    assert f"form='{form.form}', template='32x4d'" in shown


def test_every_form_has_its_own_structure():
    spec = BlockSpec(in_channels=8, cardinality=2, width=3)
    assert len(PerBranch(spec).branches) == len(Concatenated(spec).branches) == 2
    assert PerBranch(spec).branches[0].expand.weight.shape == (8, 3, 1, 1)
    assert Concatenated(spec).expand.weight.shape == (8, 6, 1, 1)
    assert Grouped(spec).transform.conv.groups == 2
