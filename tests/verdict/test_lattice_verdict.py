"""The check on integers: bitwise equality on the modules' own kernels, and which side is off where it fails."""

import pytest
import torch
from torch import nn

from equivalence import BlockSpec, Verdict, check, transfer
from equivalence.arithmetic.lattice import SIGNIFICAND, NotApplicable
from equivalence.verdict.experiments import INPUT_GRADIENT, OUTPUTS
from equivalence.verdict.lattice import run_on_integers, side_that_is_off
from equivalence.verdict.memory import Memory
from tests.strategies import FORMS, randomised

SPEC = BlockSpec(in_channels=4, cardinality=2, width=2)
SHAPE = (2, 4, 5, 5)
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def transferred(spec=SPEC, seed=0, dtype=torch.float32):
    made = [randomised(form(spec).to(dtype), seed + i) for i, form in enumerate(FORMS)]
    for other in made[1:]:
        transfer(made[0], other)
    return made


def on_integers(left, right, dtype=torch.float32, seed=0, shape=SHAPE):
    return run_on_integers(left, right, shape, dtype, seed, Memory())


class WrongKernel(nn.Module):
    """Adds 1 in one place, but only to plain tensors of a dtype: what a broken kernel does."""

    def __init__(self, module, dtype=torch.float32):
        super().__init__()
        self.module, self.dtype = module, dtype

    def forward(self, x):
        y = self.module(x)
        if type(y) is torch.Tensor and y.dtype is self.dtype:
            y = y + torch.eye(1, y.numel(), dtype=y.dtype).view(y.shape)
        return y


def conv(**options):
    return randomised(nn.Conv2d(4, 4, 3, padding=1, **options), 0)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_transferred_forms_are_equal_in_every_bit(dtype, channels_last):
    left, middle, right = transferred(dtype=dtype)
    if channels_last:
        middle, right = (m.to(memory_format=torch.channels_last) for m in (middle, right))
    for other in (middle, right):
        found = on_integers(left, other, dtype)
        assert found.differing() == []
        assert not found.vacuous
        assert max(side.largest for side in found.given) < 2.0 ** SIGNIFICAND[dtype]
        assert {OUTPUTS, INPUT_GRADIENT} <= found.results[0].keys()
        assert found.results[0][OUTPUTS].dtype is dtype


@pytest.mark.parametrize("dtype", DTYPES)
def test_results_are_those_of_python_integers(dtype):
    """What the module's kernel gives in its dtype is what it gives in float64: nothing was rounded."""
    left, _, right = transferred(dtype=dtype)
    found = on_integers(left, right, dtype)
    assert side_that_is_off(left, right, found, OUTPUTS) == "neither side differs from the NumPy reference"


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_wrong_kernel_is_found_and_its_side_is_named(side):
    wrong, right = WrongKernel(conv()), conv()
    pair = (wrong, right) if side == "left" else (right, wrong)
    report = check(*pair, input_shape=SHAPE)
    assert report.verdict is Verdict.DIFFERENT
    assert f"{side} differs from float64" in report.reason
    assert "a kernel is wrong" in report.reason


def test_a_wrong_kernel_in_a_form_is_judged_by_the_reference():
    left, _, right = transferred()
    right.register_forward_hook(
        lambda m, i, y: y + torch.eye(1, y.numel()).view(y.shape) if type(y) is torch.Tensor else y
    )
    report = check(left, right)
    assert report.verdict is Verdict.DIFFERENT
    assert "right differs from the NumPy reference" in report.reason


def test_data_get_sparser_where_a_dtype_is_small_and_then_nothing_is_left():
    spec = BlockSpec(in_channels=64, cardinality=4, width=8)
    left, _, right = transferred(spec, dtype=torch.bfloat16)
    shape = (2, 64, 5, 5)
    narrow = on_integers(left, right, torch.bfloat16, shape=shape)
    wide = on_integers(left.float(), right.float(), torch.float32, shape=shape)
    assert narrow.differing() == wide.differing() == []
    assert narrow.telling < wide.telling
    deep = nn.Sequential(*[nn.Conv2d(64, 64, 3, padding=1) for _ in range(12)]).bfloat16()
    with pytest.raises(NotApplicable, match="do not fit"):
        on_integers(deep, deep, torch.bfloat16, shape=shape)


def test_agreement_that_does_not_depend_on_the_weights_is_marked_vacuous():
    zero = nn.Conv2d(4, 4, 1)
    for tensor in zero.parameters():
        nn.init.zeros_(tensor)
    found = on_integers(zero, zero)
    assert found.vacuous
    assert "vacuous" in found.description
    assert not on_integers(conv(), conv()).vacuous
    report = check(nn.ReLU(), nn.ReLU(), input_shape=SHAPE)
    lattice = [e for e in report.evidence if e.arithmetic == "lattice"]
    assert report
    assert all(e.holds is None for e in lattice if "vacuous" in e.statement)


@pytest.mark.parametrize("module", [nn.Sigmoid(), nn.AdaptiveAvgPool2d(1), nn.GELU()])
def test_what_is_not_exact_on_integers_is_not_applicable_and_says_why(module):
    report = check(module, module, input_shape=(2, 4, 7, 7))
    lattice = [e for e in report.evidence if e.arithmetic == "lattice"]
    assert report
    assert [e.holds for e in lattice] == [None]
    assert lattice[0].statement.startswith("not applicable")


def test_weights_related_by_more_than_copying_are_no_contradiction():
    """A negated branch becomes other integers: the answer must not be that a kernel is wrong."""
    right = conv()
    left = nn.Sequential(conv())
    with torch.no_grad():
        left[0].weight.neg_()
        left[0].bias.neg_()
    left.register_forward_hook(lambda m, i, y: -y)
    report = check(left, right, input_shape=SHAPE)
    assert report.verdict is Verdict.EQUIVALENT
    assert any("otherwise than by copying" in e.statement for e in report.evidence)


@pytest.mark.parametrize(
    "body",
    [
        lambda y: (y + -1000) + 1000,
        lambda y: (y * -300 + 0 * y) * -1 - y * 299,
        lambda y: torch.add(2 * y, torch.add(y, y, alpha=-500), alpha=-1) - 500 * y,
    ],
)
def test_numbers_with_a_sign_count_by_their_size(body):
    """In bfloat16 the sums do not fit, although what is left of them would."""
    part = conv().bfloat16()

    class Roundabout(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = part

        def forward(self, x):
            return body(self.part(x))

    assert check(Roundabout(), part, input_shape=SHAPE).verdict is Verdict.EQUIVALENT


def test_ties_on_integers_are_no_contradiction():
    class Turned(nn.Module):
        def forward(self, x):
            return nn.functional.max_pool2d(x.mT, 2).mT

    assert check(nn.MaxPool2d(2), Turned(), input_shape=(2, 2, 6, 6)).verdict is Verdict.EQUIVALENT


def test_the_same_seed_gives_the_same_integers():
    left, _, right = transferred()
    first, second, other = (on_integers(left, right, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.results[0][OUTPUTS], second.results[0][OUTPUTS])
    assert not torch.equal(first.results[0][OUTPUTS], other.results[0][OUTPUTS])
