"""Recognition: whatever a block's code looks like, its spec and the place of every tensor are read."""

import dataclasses

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

import tests.styles as styles
from equivalence import BlockSpec, Concatenated, Grouped, PerBranch, RecognitionError, convert, recognize, transfer
from equivalence.blocks.recognize import find_blocks
from tests.strategies import block_specs, inputs, randomised, same_bits, seeds, state

SPEC = BlockSpec(in_channels=6, cardinality=3, width=2, out_channels=8, stride=2)
GROUP_NORMED = {"norm": "group", "norm_groups": 2, "output_norm_groups": 2}


def written(style, spec, seed):
    torch.manual_seed(seed % 2**32)
    module = randomised(style(spec), seed).double().eval()
    for (_, key), name in getattr(module, "held", {}).items():
        if key == "nrunning_var":  # what has no telling name was drawn like a weight
            getattr(module, name).abs_().add_(0.5)
    return module


@st.composite
def coded_blocks(draw):
    """A spec, and a module in some coding style that computes it."""
    style = draw(st.sampled_from([*styles.STYLES, *styles.ONLY_NORMED, *styles.ONLY_NORMED_IMAGES]))
    fixed = {}
    if style in styles.ONLY_NORMED + styles.ONLY_NORMED_IMAGES:
        fixed["norm"] = st.sampled_from(["batch", "group"])
    if style in styles.ONLY_NORMED_IMAGES:
        fixed["spatial_dims"] = 2
    spec = draw(block_specs(**fixed))
    return spec, written(style, spec, draw(seeds()))


@given(coded_blocks())
def test_the_spec_that_was_drawn_is_read_and_every_tensor_is_placed(coded):
    spec, module = coded
    before, mode = state(module), module.training
    found = recognize(module, input_shape=spec.input_shape(batch=2, size=5))
    assert found.plain
    unseen = {"batch": {}, "group": {"momentum": 0.1}, "none": {"eps": 1e-5, "momentum": 0.1}}[spec.norm]
    if spec.activation == "celu":  # with the defaults of both, another name of elu
        unseen["activation"] = "elu"
    assert found.spec == dataclasses.replace(spec, **unseen)
    assert found.names == {name for name, _ in [*module.named_parameters(), *module.named_buffers()]}
    assert same_bits(before, state(module))
    assert module.training == mode


@given(coded_blocks(), st.sampled_from(["per-branch", "concatenated", "grouped"]), seeds())
def test_a_converted_block_computes_what_the_original_does(coded, form, seed):
    spec, module = coded
    converted = convert(module, form, input_shape=spec.input_shape(batch=2, size=5))
    assert converted.form == form
    x = inputs(spec, seed)
    with torch.no_grad():
        for training in (False, True, False):
            expected, actual = (m.train(training)(x.clone()) for m in (module, converted))
            torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("form", [PerBranch, Concatenated, Grouped])
def test_our_own_forms_are_recognised_too(form):
    block = form(SPEC)
    assert recognize(block).spec == SPEC
    assert recognize(block).names == set(block.state_dict())


@pytest.mark.parametrize("style", [styles.Surrounded, styles.ZeroPaddedShortcut, styles.StrideInTheReduce])
@pytest.mark.parametrize("form", ["per-branch", "concatenated"])
@pytest.mark.parametrize("normed", [{}, GROUP_NORMED], ids=["batch", "group"])
def test_what_is_around_a_core_stays_as_it_is(style, form, normed):
    spec = SPEC if style is not styles.StrideInTheReduce else BlockSpec(in_channels=6, cardinality=3, width=2)
    spec = dataclasses.replace(spec, **normed)
    module = written(style, spec, 1)
    found = recognize(module, (2, 6, 8, 8))
    assert not found.plain
    converted = convert(module, form, (2, 6, 8, 8))
    assert type(converted) is type(module)
    restored = written(style, spec, 2)
    transfer(*(recognize(m, (2, 6, 8, 8)) for m in (converted, restored)))
    assert same_bits(state(restored), state(module))
    x = torch.randn(3, 6, 9, 9, dtype=torch.float64)
    for training in (False, True):
        results = []
        for m in (module, converted):
            torch.manual_seed(0)
            leaf = x.clone().requires_grad_()
            y = m.train(training)(leaf)
            (gradient,) = torch.autograd.grad(y.square().sum(), leaf)
            results.append((y.detach(), gradient))
        torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-10)
    back = convert(converted, "grouped", (2, 6, 8, 8))
    assert len(back.state_dict()) == len(module.state_dict())


@pytest.mark.parametrize("groups", [1, 2])
def test_a_projection_with_other_groups_than_the_norm_after_the_sum_stays_as_it_is(groups):
    spec = dataclasses.replace(SPEC, **GROUP_NORMED)
    module = written(styles.OneActivationModule, spec, 0)
    module.down[1].num_groups = groups
    found = recognize(module, (2, 6, 8, 8))
    assert (found.spec.output_norm_groups, found.plain) == (2, groups == 2)


def with_parts(**parts):
    """A block of torchvision's kind with some of its parts replaced."""
    module = styles.OneActivationModule(BlockSpec(in_channels=12, cardinality=2, width=6))
    for name, part in parts.items():
        setattr(module, name, part)
    return module


class GateInTheMiddle(styles.OneActivationModule):
    """A gate between transform and expand."""

    def __init__(self, spec):
        super().__init__(spec)
        self.gate = nn.Conv2d(spec.hidden_channels, spec.hidden_channels, 1)

    def forward(self, x):
        y = self.relu(self.n2(self.c(self.relu(self.n1(self.a(x))))))
        y = y * torch.sigmoid(self.gate(y.mean((2, 3), keepdim=True)))
        return self.finish(x, self.n3(self.b(y)))


class PreActivation(styles.OneActivationModule):
    """Norm and activation come first."""

    def __init__(self, spec):
        super().__init__(spec)
        self.n0 = styles.norm(spec, spec.in_channels)

    def forward(self, x):
        y = self.a(functional.relu(self.n0(x)))
        y = self.c(functional.relu(self.n1(y)))
        return x + self.b(functional.relu(self.n2(y)))


class Basic(nn.Module):
    """Two 3×3 convolutions."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.n, self.m = nn.BatchNorm2d(8), nn.BatchNorm2d(8)

    def forward(self, x):
        return functional.relu(x + self.m(self.b(functional.relu(self.n(self.a(x))))))


class SharedBranch(styles.SomeoneElsesBranches):
    """One branch, listed again and again."""

    def __init__(self, spec):
        super().__init__(spec)
        self.paths = nn.ModuleList([self.paths[0]] * spec.cardinality)


class DropoutInside(styles.OneActivationModule):
    """What only training shows."""

    def forward(self, x):
        y = functional.dropout(self.relu(self.n1(self.a(x))), 0.5, self.training)
        return self.finish(x, self.n3(self.b(self.relu(self.n2(self.c(y))))))


def unequal_branches():
    module = styles.SomeoneElsesBranches(BlockSpec(in_channels=6, cardinality=2, width=2))
    other = styles.SomeoneElsesBranches(BlockSpec(in_channels=6, cardinality=2, width=3))
    module.paths[1] = other.paths[1]
    return module


class ChannelLayerNorm(nn.LayerNorm):
    """Over the channels of each pixel."""

    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class OnlyInTraining(nn.GroupNorm):
    """What evaluation leaves out."""

    def forward(self, x):
        return super().forward(x) if self.training else x


class AnotherEpsInTraining(nn.GroupNorm):
    """What evaluation does not show."""

    def forward(self, x):
        return functional.group_norm(x, self.num_groups, self.weight, self.bias, self.eps * (1 + self.training))


def group_normed(**norms):
    """A block of torchvision's kind with aligned group norms, but for those given."""
    aligned = {"n1": nn.GroupNorm(2, 12), "n2": nn.GroupNorm(2, 12), "n3": nn.GroupNorm(3, 12)}
    return with_parts(**aligned | norms)


PLAIN = BlockSpec(in_channels=12, cardinality=2, width=6)
REFUSED = {
    "reduce is grouped": lambda: with_parts(a=nn.Conv2d(12, 12, 1, groups=3)),
    "a gate stands between transform and expand": lambda: GateInTheMiddle(PLAIN),
    "differ in kind": lambda: with_parts(n1=nn.GroupNorm(2, 12)),
    "differ in groups of a branch": lambda: group_normed(n1=nn.GroupNorm(4, 12)),
    "no affine parameters": lambda: group_normed(n3=nn.GroupNorm(2, 12, affine=False)),
    "layer norm": lambda: group_normed(n2=ChannelLayerNorm(12)),
    "its norms are others": lambda: group_normed(**{name: OnlyInTraining(2, 12) for name in ("n1", "n2", "n3")}),
    r"differ in eps: \['1e-05', '2e-05'\]": lambda: group_normed(n1=AnotherEpsInTraining(2, 12)),
    "pre-activation": lambda: PreActivation(PLAIN),
    "only two convolutions": Basic,
    "branches have different shapes": unequal_branches,
    "shared between branches": lambda: SharedBranch(BlockSpec(in_channels=6, cardinality=3, width=2)),
    "differ in eps": lambda: with_parts(n2=nn.BatchNorm2d(12, eps=1e-3)),
    "differ in momentum": lambda: with_parts(n2=nn.BatchNorm2d(12, momentum=0.3)),
    "no activation": lambda: with_parts(relu=nn.Identity()),
    "no activation that a spec can name": lambda: with_parts(relu=nn.LeakyReLU(0.3)),
    "weights of its own": lambda: with_parts(relu=nn.PReLU()),
    "in training mode": lambda: DropoutInside(PLAIN),
    "must be odd": lambda: with_parts(c=nn.Conv2d(12, 12, 2, dilation=2, padding=1, groups=2)),
    "no affine parameters or no running statistics": lambda: with_parts(n1=nn.BatchNorm2d(12, affine=False)),
    "is computed": lambda: with_parts(a=nn.utils.parametrizations.weight_norm(nn.Conv2d(12, 12, 1))),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_has_no_three_forms_is_refused_with_the_reason(reason):
    torch.manual_seed(0)
    with pytest.raises(RecognitionError, match=reason):
        recognize(REFUSED[reason](), (2, 6 if "branches" in reason else 8 if "two" in reason else 12, 8, 8))


@given(
    block_specs(norm="group", cardinality=st.integers(2, 4), kernel_size=3),
    st.sampled_from(["reduce.norm", "transform.norm"]),
    st.data(),
)
def test_a_group_norm_is_refused_with_its_place_just_if_it_straddles_branches(spec, path, data):
    block = nn.Sequential(Grouped(spec))
    norm = block.get_submodule(f"0.{path}")
    norm.num_groups = data.draw(st.sampled_from([n for n in range(1, 17) if norm.num_channels % n == 0]))
    assume(norm.num_groups != spec.cardinality * spec.norm_groups)
    straddles = norm.num_groups % spec.cardinality
    reason = rf"the group norm 0\.{path} straddles branches: its number" if straddles else "differ in groups of a"
    with pytest.raises(RecognitionError, match=reason):
        recognize(block, input_shape=spec.input_shape(batch=2, size=5))


def test_a_network_s_blocks_are_found_in_order_and_what_is_none_is_named():
    torch.manual_seed(0)
    stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
    blocks = [styles.OneActivationModule(SPEC), Basic()]
    network = nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    found = find_blocks(network)
    assert [block.path for block in found.blocks] == ["1"]
    assert [refusal.place for refusal in found.refused] == ["2"]


def test_a_module_without_any_block_is_refused():
    with pytest.raises(RecognitionError, match="no block here"):
        recognize(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()))
