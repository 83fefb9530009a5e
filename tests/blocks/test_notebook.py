"""The notebook's structures are the notebook's, and each deviation breaks what it is said to."""

import dataclasses
import inspect

import pytest
import torch
from torch import nn

from equivalence.blocks.forms import FORMS, Block
from equivalence.blocks.notebook import (
    NOTEBOOK,
    PAPER,
    BottleneckA,
    BottleneckATwin,
    BottleneckB,
    BottleneckC,
    Deviations,
)
from equivalence.blocks.spec import BlockSpec
from equivalence.weights.correspondence import gather, scatter

INDEPENDENT = dataclasses.replace(NOTEBOOK, shared_branch=False)
STRUCTURES = {"per-branch": BottleneckA, "concatenated": BottleneckB, "grouped": BottleneckC}


class Conv(nn.Module):
    """The notebook's BasicConv and SepConv, word for word but for their common name."""

    def __init__(self, in_channels, out_channels, kernel_size, groups=1, padding=0, bias=False):
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(
                in_channels,
                out_channels,
                kernel_size=kernel_size,
                padding=padding,
                groups=groups,
                bias=bias,
            ),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, x):
        return self.conv(x)


class SeedA(nn.Module):
    """The notebook's BottleneckA, word for word."""

    def __init__(self, in_channels=256, out_channels=4, cardinality=32):
        super().__init__()
        self.cardinality = cardinality
        self.branch1 = nn.Sequential(
            Conv(in_channels, out_channels, kernel_size=1),
            Conv(out_channels, out_channels, kernel_size=3, padding=1, bias=True),
            Conv(out_channels, in_channels, kernel_size=1),
        )

    def forward(self, x):
        identity = x
        for _ in range(self.cardinality):
            identity += self.branch1(x)

        return identity


class SeedB(nn.Module):
    """The notebook's BottleneckB, word for word."""

    def __init__(self, in_channels=256, out_channels=4, cardinality=32):
        super().__init__()
        self.cardinality = cardinality
        self.branch1 = nn.Sequential(
            Conv(in_channels, out_channels, kernel_size=1),
            Conv(out_channels, out_channels, kernel_size=3, padding=1, bias=True),
        )
        self.conv = nn.Sequential(Conv(out_channels * cardinality, in_channels, kernel_size=1))

    def forward(self, x):
        identity = x

        result = []
        for _ in range(self.cardinality):
            result.append(self.branch1(x))

        y = self.conv(torch.cat(result, dim=1))

        return y + identity


class SeedC(nn.Module):
    """The notebook's BottleneckC, word for word."""

    def __init__(self, in_channels=256, out_channels=128, groups=32):
        super().__init__()
        self.branch1 = nn.Sequential(
            Conv(in_channels, out_channels, kernel_size=1),
            Conv(out_channels, out_channels, kernel_size=3, padding=1, groups=groups, bias=True),
            Conv(out_channels, in_channels, kernel_size=1),
        )

    def forward(self, x):
        identity = x
        y = self.branch1(x)
        return y + identity


SEED = {"per-branch": SeedA, "concatenated": SeedB, "grouped": SeedC}


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module in float64 with no tensor as it was constructed; counters stay."""
    generator = torch.Generator().manual_seed(seed)
    module.double()
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            fan_in = max(tensor[0].numel(), 1)
            values = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            tensor.copy_(values.abs() + 0.5 if name.endswith("var") else values / fan_in**0.5)
    return module


def picture(seed: int = 1, channels: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, channels, 5, 4, generator=generator, dtype=torch.float64)


def spec(*, bias: bool = False) -> BlockSpec:
    return BlockSpec(in_channels=6, cardinality=3, width=2, bias=(False, bias, False))


def forms(*, bias: bool = False) -> dict[str, Block]:
    """The three forms with corresponding random weights."""
    first = randomised(FORMS["per-branch"](spec(bias=bias)))
    built = {name: form(spec(bias=bias)).double() for name, form in FORMS.items()}
    canonical = gather("per-branch", first.state_dict(), cardinality=3)
    for name, form in built.items():
        form.load_state_dict(scatter(name, canonical, cardinality=3))
    return built


def structure(form: str, deviations: Deviations, block: Block | None = None) -> nn.Module:
    """A structure of the spec's size, with the block's tensors, which come in the same order."""
    width = 6 if form == "grouped" else 2
    built = STRUCTURES[form](6, width, 3, deviations=deviations).double()
    if block is not None:
        tensors = block.state_dict().values()
        built.load_state_dict(dict(zip(built.state_dict(), tensors, strict=True)))
    return built


def close(left: torch.Tensor, right: torch.Tensor) -> bool:
    return bool((left - right).abs().max() <= 1e-12 * right.abs().max())


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("form", STRUCTURES)
def test_with_its_defaults_a_structure_is_the_notebooks(form):
    seed = SEED[form]
    ours, theirs = STRUCTURES[form](), randomised(seed())
    ours.double().load_state_dict(theirs.state_dict())
    arguments = list(inspect.signature(STRUCTURES[form]).parameters.values())
    named = [(a.name, a.default) for a in arguments if a.kind is not a.KEYWORD_ONLY]
    assert named == [(a.name, a.default) for a in inspect.signature(seed).parameters.values()]
    x = picture(channels=256)
    for module in (ours.train(), theirs.train(), ours.eval(), theirs.eval()):
        module.output = module(x.clone())
    assert torch.equal(ours.output, theirs.output)
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor), name


@pytest.mark.parametrize(("structure", "published"), [(BottleneckA, 87168), (BottleneckB, 71296), (BottleneckC, 71296)])
def test_independent_weights_make_up_the_published_totals(structure, published):
    assert parameters(structure(deviations=INDEPENDENT)) == published


def test_with_the_norm_where_the_paper_puts_it_a_has_the_parameters_of_the_others():
    assert parameters(BottleneckA(deviations=dataclasses.replace(INDEPENDENT, norm_in_branches=False))) == parameters(
        BottleneckC()
    )


def test_sharing_divides_the_parameters_of_a_by_its_branches():
    assert parameters(BottleneckA()) * 32 == 87168


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("form", STRUCTURES)
def test_without_deviations_a_structure_is_its_form(form, mode):
    block = forms()[form].train(mode)
    ours = structure(form, PAPER, block).train(mode)
    x = picture()
    assert close(ours(x), block(x))
    for ours_, theirs in zip(ours.state_dict().values(), block.state_dict().values(), strict=True):
        assert torch.allclose(ours_, theirs, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("form", STRUCTURES)
def test_the_bias_alone_keeps_every_structure_equivalent_to_its_form(form):
    deviations = dataclasses.replace(PAPER, transform_bias=True)
    blocks = {name: block.eval() for name, block in forms(bias=True).items()}
    ours = structure(form, deviations, blocks[form]).eval()
    assert close(ours(picture()), blocks["grouped"](picture()))


def test_relu_before_the_addition_is_another_block_but_one_for_all_three():
    deviations = dataclasses.replace(PAPER, relu_before_add=True)
    blocks = {name: block.eval() for name, block in forms().items()}
    x = picture()
    a, b, c = (structure(form, deviations, block).eval()(x) for form, block in blocks.items())
    assert close(a, c)
    assert close(b, c)
    assert not torch.allclose(c, blocks["grouped"](x), atol=0.1)


def test_with_both_that_apply_b_and_c_stay_equivalent():
    blocks = {name: block.eval() for name, block in forms(bias=True).items()}
    x = picture()
    b = structure("concatenated", INDEPENDENT, blocks["concatenated"]).eval()
    c = structure("grouped", NOTEBOOK, blocks["grouped"]).eval()
    assert close(b(x), c(x))


def test_a_shared_branch_is_one_branch_times_their_number_and_no_other_form():
    block = forms()["per-branch"].eval()
    ours = structure("per-branch", dataclasses.replace(PAPER, shared_branch=True)).eval()
    tensors = [t for name, t in block.state_dict().items() if not name.startswith("branches")]
    first = list(block.branches[0].state_dict().values())
    ours.load_state_dict(dict(zip(ours.state_dict(), first + tensors, strict=True)))
    x = picture()
    assert not torch.allclose(ours(x), block(x), atol=0.1)
    for branch in block.branches:
        branch.load_state_dict(block.branches[0].state_dict())
    assert close(ours(x), block(x))


def test_in_training_a_shared_branch_counts_one_batch_for_every_branch():
    ours = structure("per-branch", dataclasses.replace(PAPER, shared_branch=True))
    ours(picture())
    counters = {k: v.item() for k, v in ours.state_dict().items() if k.endswith("tracked")}
    assert counters == {
        "branch1.0.conv.1.num_batches_tracked": 3,
        "branch1.1.conv.1.num_batches_tracked": 3,
        "norm.num_batches_tracked": 1,
    }


def test_the_inplace_identity_alone_makes_another_function_and_overwrites_the_input():
    block = forms()["per-branch"].eval()
    ours = structure("per-branch", dataclasses.replace(PAPER, inplace_identity=True), block).eval()
    x = picture()
    assert not torch.allclose(ours(x.clone()), block(x), atol=0.1)
    assert torch.equal(x, picture())
    ours(x)
    assert not torch.equal(x, picture())


def test_with_the_inplace_identity_later_branches_read_what_earlier_ones_added():
    deviations = dataclasses.replace(INDEPENDENT, inplace_identity=False)
    inplace = randomised(structure("per-branch", INDEPENDENT)).eval()
    apart = structure("per-branch", deviations).eval()
    apart.load_state_dict(inplace.state_dict())
    x = picture()
    assert not torch.allclose(inplace(x.clone()), apart(x), atol=0.1)
    expected = x.clone()
    for branch in inplace.branches:
        expected = expected + branch(expected)
    assert close(inplace(x.clone()), expected)


def test_the_inplace_identity_cannot_be_trained_and_without_it_a_can():
    apart = structure("per-branch", dataclasses.replace(NOTEBOOK, inplace_identity=False))
    apart(picture()).sum().backward()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        structure("per-branch", NOTEBOOK)(picture()).sum().backward()


def test_norms_in_the_branches_alone_make_another_function():
    block = forms()["per-branch"].eval()
    ours = structure("per-branch", dataclasses.replace(PAPER, norm_in_branches=True)).eval()
    norm = list(block.norm.state_dict().values())
    tensors = [
        tensor
        for branch in block.branches
        for tensor in (*branch.state_dict().values(), *norm)
    ]  # fmt: skip
    ours.load_state_dict(dict(zip(ours.state_dict(), tensors, strict=True)))
    assert not torch.allclose(ours(picture()), block(picture()), atol=0.1)


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_the_notebooks_a_with_independent_weights_has_a_grouped_twin(mode):
    deviations = dataclasses.replace(INDEPENDENT, inplace_identity=False)
    ours = randomised(structure("per-branch", deviations)).train(mode)
    twin = BottleneckATwin(6, 2, 3).double().train(mode)
    assert parameters(twin) == parameters(ours)

    def side_by_side() -> dict[str, torch.Tensor]:
        states = [branch.state_dict() for branch in ours.branches]
        return {
            f"branch1.{name}": torch.cat([state[name] for state in states]) if states[0][name].ndim else states[0][name]
            for name in states[0]
        }

    twin.load_state_dict(side_by_side())
    assert close(twin(picture()), ours(picture()))
    for name, tensor in side_by_side().items():
        assert torch.allclose(twin.state_dict()[name], tensor, rtol=1e-12, atol=1e-15), name
    weight = twin.branch1[2].conv[0].weight.data
    weight.copy_(weight.flip(0))
    assert not close(twin(picture()), ours(picture()))


@pytest.mark.parametrize(
    ("form", "ignored"),
    [
        ("concatenated", {"inplace_identity", "norm_in_branches"}),
        ("grouped", {"shared_branch", "inplace_identity", "norm_in_branches"}),
        ("per-branch", set()),
    ],
)
def test_a_structure_has_just_the_deviations_that_it_says(form, ignored):
    def prints(deviations: Deviations) -> tuple[list[str], bool]:
        torch.manual_seed(0)
        built = structure(form, deviations)
        x = picture()
        with torch.no_grad():
            y = built(x.clone())
        return list(built.state_dict()), [*y.flatten().tolist()]

    for field in dataclasses.fields(Deviations):
        changed = prints(dataclasses.replace(INDEPENDENT, **{field.name: field.name == "shared_branch"}))
        assert (changed == prints(INDEPENDENT)) == (field.name in ignored), field.name
