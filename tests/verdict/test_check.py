"""What `check` promises whatever it is given: the verdict's form, no traces, the same bytes, clear errors."""

import copy
import random
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from equivalence import BlockSpec, Grouped, Verdict, assert_equivalent, check, transfer
from equivalence.arithmetic.errors import RejectedInput
from equivalence.arithmetic.rounding.tensor import RoundingTensor
from equivalence.report import json as report_json
from equivalence.report.document import Document
from equivalence.verdict import lattice as lattice_room
from tests.strategies import FORMS, block_specs, randomised, same_bits, seeds, state

FEW = settings(max_examples=3)


def small_specs():
    """Specs whose check takes a fraction of a second."""
    return block_specs(
        in_channels=3,
        kernel_size=3,
        cardinality=2,
        width=2,
        dilation=1,
        activation="relu",
        momentum=0.25,
        spatial_dims=2,
    )


def transferred(spec, seed, forms=FORMS):
    """The forms of one spec, with the weights of the first."""
    made = [randomised(form(spec), seed + i) for i, form in enumerate(forms)]
    for other in made[1:]:
        transfer(made[0], other)
    return made


class Raises(nn.Module):
    """Fails going forward or backward."""

    def __init__(self, where):
        super().__init__()
        self.where = where

    def forward(self, x):
        if self.where == "forward":
            raise ValueError("no forward today")
        return _FailsBackward.apply(x)


class _FailsBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise ValueError("no backward today")


class Untidy(nn.Module):
    """Draws random numbers, remembers what it saw, replaces and writes to its buffers."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)
        self.register_buffer("written", torch.zeros(1))
        self.register_buffer("replaced", torch.zeros(1))
        self.seen = None

    def forward(self, x):
        torch.rand(1), random.random(), np.random.rand()
        self.written.add_(1)
        self.replaced = self.replaced + 1
        self.seen = self.conv(x)
        self.conv.weight.requires_grad_(True)
        return self.seen


@FEW
@given(spec=small_specs(), seed=seeds(), mode=st.sampled_from(["eval", "train"]), pair=st.permutations(FORMS))
def test_transferred_forms_are_equivalent_and_with_one_scalar_changed_they_are_not(spec, seed, mode, pair):
    left, right = transferred(spec, seed, pair[:2])
    assert check(left, right, mode=mode, seed=seed).verdict is Verdict.EQUIVALENT
    with torch.no_grad():
        weights = dict(right.named_parameters())["norm.weight" if spec.norm == "batch" else _first_expand(right)]
        weights.view(-1)[0] *= 1.25
    assert check(left, right, mode=mode, seed=seed).verdict is not Verdict.EQUIVALENT


def _first_expand(block):
    return next(name for name, p in block.named_parameters() if "expand" in name and p.dim() > 1)


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_transferred_forms_are_equivalent_in_every_dtype(dtype, mode):
    left, _, right = (m.to(dtype) for m in transferred(BlockSpec(in_channels=3, cardinality=2, width=2), 0))
    assert check(left, right, mode=mode), dtype


def test_independent_weights_are_equivalent_only_as_all_weights():
    left, right = (
        randomised(form(BlockSpec(in_channels=3, cardinality=2, width=2)), i) for i, form in enumerate(FORMS[:2])
    )
    assert check(left, right).verdict is Verdict.DIFFERENT
    report = check(left, right, weights="all")
    assert report
    assert report.weights == "all"
    assert "all weights" in report.reason


@FEW
@given(seed=seeds(), mode=st.sampled_from(["eval", "train"]), training=st.booleans())
def test_modules_and_random_state_are_left_as_found(seed, mode, training):
    modules = transferred(BlockSpec(in_channels=3, cardinality=2, width=2), seed)[:2]
    for module in modules:
        module.train(training)
        module(torch.randn(2, 3, 5, 5)).sum().backward()
    _assert_unchanged_by(lambda: check(*modules, mode=mode, seed=seed), modules)


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_modules_are_left_as_found_when_they_raise(where):
    modules = (nn.Sequential(nn.Conv2d(2, 2, 1), Raises(where)), nn.Conv2d(2, 2, 1))

    def attempt():
        with pytest.raises(RejectedInput):
            check(*modules, input_shape=(2, 2, 3, 3))

    _assert_unchanged_by(attempt, modules)


def test_untidy_modules_are_left_as_found():
    modules = (Untidy(), Untidy())
    _assert_unchanged_by(lambda: check(*modules, input_shape=(2, 2, 3, 3), mode="train"), modules)
    assert [m.seen for m in modules] == [None, None]
    assert not isinstance(modules[0].replaced, RoundingTensor)


def _assert_unchanged_by(action, modules):
    def hooks(module):
        return [(len(p._forward_hooks), len(p._forward_pre_hooks), len(p._backward_hooks)) for p in module.modules()]

    def modes(module):
        return [(p.training, tuple(v for v in vars(p).values() if isinstance(v, bool))) for p in module.modules()]

    def gradients(module):
        return [(p.requires_grad, id(p.grad), None if p.grad is None else p.grad.clone()) for p in module.parameters()]

    def drawn():
        return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()

    before = [(state(m), modes(m), gradients(m), hooks(m), [id(p) for p in m.parameters()]) for m in modules]
    random_before = drawn()
    action()
    assert drawn() == random_before
    for module, (tensors, mode, grads, hooked, identities) in zip(modules, before, strict=True):
        assert same_bits(state(module), tensors)
        assert (modes(module), hooks(module), [id(p) for p in module.parameters()]) == (mode, hooked, identities)
        for (required, identity, gradient), now in zip(grads, gradients(module), strict=True):
            assert (required, identity) == now[:2]
            assert gradient is None or torch.equal(gradient, now[2])


@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_same_seed_gives_the_same_bytes(mode, equal):
    left, _, right = transferred(BlockSpec(in_channels=3, cardinality=2, width=2), 0)
    if not equal:
        right = randomised(right, 5)

    def bytes_of(seed):
        torch.manual_seed(random.randrange(2**32))  # whatever was drawn before
        report = check(left, right, mode=mode, seed=seed)
        return report_json.render(Document("equivalence check", seed, left.spec, (report,)))

    assert bytes_of(3) == bytes_of(3)
    assert bytes_of(3) != bytes_of(4)


def test_a_module_is_equivalent_to_itself_and_to_its_copy():
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU())
    assert check(module, module, input_shape=(2, 2, 5, 5), mode="train")
    assert check(module, copy.deepcopy(module), input_shape=(2, 2, 5, 5))


def test_the_report_says_the_same_in_every_form():
    left, _, right = transferred(BlockSpec(in_channels=3, cardinality=2, width=2), 0)
    report = check(left, right)
    assert bool(report)
    assert report.verdict.exit_status == 0
    assert "\n" not in repr(report)
    assert "EQUIVALENT" in repr(report)
    assert "EQUIVALENT" in str(report)
    assert str(report).count("\n") > 3
    assert report.max_abs_diff < 1e-4
    assert {e.arithmetic for e in report.evidence} == {"field", "lattice", "rounding"}
    field = [e for e in report.evidence if e.arithmetic == "field"]
    assert all(0 < e.error_probability < 2.0**-64 for e in field)
    assert next(q for q in report.quantities if q.name == "output").bound > report.max_abs_diff


def test_other_forms_of_evidence_come_with_a_difference():
    report = check(nn.ReLU(), nn.ReLU6(), input_shape=(1, 2, 3, 3))
    assert not report
    assert report.verdict.exit_status == 1
    assert any(e.arithmetic == "rounding" and e.holds is False for e in report.evidence)


@pytest.mark.parametrize(("right", "word"), [(nn.ReLU6(), "DIFFERENT"), (nn.RReLU(), "UNDECIDED")])
def test_the_first_line_of_the_error_is_the_whole_verdict(right, word):
    with pytest.raises(AssertionError) as raised:
        assert_equivalent(nn.ReLU(), right, input_shape=(1, 2, 3, 3))
    first, *rest = str(raised.value).splitlines()
    report = check(nn.ReLU(), right, input_shape=(1, 2, 3, 3))
    assert first == report.headline
    assert word in first
    assert rest[-1] == "again: check(left, right, input_shape=(1, 2, 3, 3), mode='eval', weights='given', seed=0)"
    assert_equivalent(nn.ReLU(), nn.ReLU(), input_shape=(1, 2, 3, 3))


def test_a_silenced_branch_makes_the_answer_vacuous_and_an_unused_part_does_not():
    spec = BlockSpec(in_channels=3, cardinality=2, width=2)
    left, _, right = transferred(spec, 0)
    for module in (left, right):
        nn.init.zeros_(module.norm.weight)
    report = check(left, right)
    assert report.verdict is Verdict.UNDECIDED
    assert "vacuous" in report.reason
    assert "weights='all'" in report.reason
    assert check(left, right, weights="all")
    unused = nn.Sequential(nn.Conv2d(2, 2, 1))
    nn.init.zeros_(unused[0].bias)
    unused.head, unused.forward = nn.Linear(2, 2), unused[0].forward
    assert check(unused, unused[0], input_shape=(2, 2, 3, 3))


# --- bad input -------------------------------------------------------------------------------------------------


def conv(**options):
    return nn.Conv2d(2, 2, 3, padding=1, **options)


class Pair(nn.Module):
    def forward(self, x):
        return x, x


def _integer_weights():
    module = conv()
    module.weight = nn.Parameter(torch.ones(2, 2, 3, 3, dtype=torch.int32), requires_grad=False)
    return nn.Sequential(nn.Identity(), module)


def _scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return nn.Sequential(torch.jit.script(conv()))


BAD = {
    "a rejected shape": (lambda: nn.Sequential(conv(), nn.Linear(7, 7)), "in 1"),
    "outputs that are no tensor": (Pair, "tuple"),
    "raising forward": (lambda: nn.Sequential(conv(), Raises("forward")), "in 1: no forward today"),
    "raising backward": (lambda: nn.Sequential(conv(), Raises("backward")), "in 1: no backward today"),
    "no data": (lambda: conv(device="meta"), "weight"),
    "lazy": (lambda: nn.LazyConv2d(2, 3), "weight"),
    "integer weights": (_integer_weights, "in 1"),
    "scripted": (_scripted, "in 0"),
}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_error_that_names_side_and_place(name, side):
    make, words = BAD[name]
    good, bad = conv(), make()
    pair = (bad, good) if side == "left" else (good, bad)
    before = state(good)
    with pytest.raises(RejectedInput) as raised:
        check(*pair, input_shape=(2, 2, 4, 4))
    said = str(raised.value)
    assert said.startswith(side)
    assert words in said
    assert "\n" not in said
    assert same_bits(state(good), before)


@pytest.mark.parametrize("bad", [None, torch.ones(1), lambda x: x, nn.ReLU])
def test_what_is_no_module_is_refused_by_side(bad):
    with pytest.raises(TypeError, match="right is a"):
        check(nn.ReLU(), bad, input_shape=(1, 2, 3, 3))
    with pytest.raises(TypeError, match="left is a"):
        check(bad, nn.ReLU(), input_shape=(1, 2, 3, 3))


def test_a_shape_is_asked_for_where_no_form_tells_it():
    with pytest.raises(ValueError, match="input_shape"):
        check(nn.ReLU(), nn.ReLU())


def test_hooks_that_change_results_are_seen():
    forward, backward = conv(), nn.Sequential(conv(), nn.Identity())
    plain = [copy.deepcopy(forward), copy.deepcopy(backward)]
    forward.register_forward_hook(lambda module, inputs, output: 2 * output)
    backward[1].register_full_backward_hook(lambda module, gradients, output: (2 * gradients[0],))
    for hooked, same in zip((forward, backward), plain, strict=True):
        assert check(hooked, same, input_shape=(2, 2, 4, 4)).verdict is Verdict.DIFFERENT
        assert check(hooked, hooked, input_shape=(2, 2, 4, 4)).verdict is Verdict.EQUIVALENT


# --- attempts to pass something else for the same ----------------------------------------------------------------


class Sly(nn.Module):
    """The convolution, unless it is looked at in one particular way."""

    def __init__(self, sees):
        super().__init__()
        self.conv, self.sees = conv(), sees

    def forward(self, x):
        y = self.conv(x)
        return y * 1.25 if self.sees(self, x) else y


SLY = {
    "plain tensors": lambda m, x: type(x) is torch.Tensor,
    "no gradients": lambda m, x: not torch.is_grad_enabled(),
    "training": lambda m, x: m.training,
    "a batch": lambda m, x: len(x) > 1,
    "odd sizes": lambda m, x: x.shape[-1] % 2,
}


@pytest.mark.parametrize("name", SLY)
def test_no_module_passes_by_noticing_the_check(name):
    sly = Sly(SLY[name])
    report = check(sly, sly.conv, input_shape=(1, 2, 4, 4), mode="train" if name == "training" else "eval")
    assert report.verdict is Verdict.DIFFERENT


# --- broken on purpose -----------------------------------------------------------------------------------------


def _equal_pair_is_called(seed=0):
    left, _, right = transferred(BlockSpec(in_channels=3, cardinality=2, width=2), seed)
    return check(left, right).verdict


def test_bounds_of_zero_would_call_equal_forms_different(monkeypatch):
    bound = property(lambda tensor: torch.zeros_like(tensor.parts[1]))
    monkeypatch.setattr(RoundingTensor, "bound", bound)
    assert _equal_pair_is_called() is Verdict.DIFFERENT


def test_inexact_integers_would_call_equal_forms_different(monkeypatch):
    """Numbers that are no integers round, and are not equal in every bit."""
    honest = lattice_room.integers

    def inexact(module, density, seed, **options):
        return {n: t / 3 if t.is_floating_point() else t for n, t in honest(module, density, seed).items()}

    class Trusting(lattice_room.Magnitudes):
        def _within(self, func, tensor):
            pass

    monkeypatch.setattr(lattice_room, "integers", inexact)
    monkeypatch.setattr(lattice_room, "Magnitudes", Trusting)
    spec = BlockSpec(in_channels=16, cardinality=4, width=4, norm="none", shortcut="none")
    left, right = FORMS[0](spec), Grouped(spec)
    transfer(left, right)
    assert check(left, right).verdict is Verdict.DIFFERENT
