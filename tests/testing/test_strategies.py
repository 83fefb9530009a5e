"""The strategies, asked questions: what they can draw, what is smallest, what they refuse."""

import sys
import types

import pytest
import torch
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import InvalidArgument

from equivalence import BlockSpec, Concatenated, Grouped, PerBranch
from equivalence.testing.case import Case  # noqa: F401  # the repr of a case needs it
from equivalence.testing.registration import register
from equivalence.testing.strategies import block_specs, cases, faults, forms, input_shapes, inputs, modules

SPEC = BlockSpec(in_channels=3, cardinality=2, width=2)
ASKING = settings(
    max_examples=500,
    database=None,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate, Phase.shrink),
)


def minimal(strategy, condition=lambda drawn: True):
    """The simplest that a strategy draws and that satisfies the condition."""
    return find(strategy, condition, settings=ASKING)


@pytest.mark.parametrize(
    "condition",
    [
        lambda spec: spec.stride == 3,
        lambda spec: spec.cardinality == 4 and spec.width == 4,
        lambda spec: spec.shortcut == "identity" and spec.in_channels > 1,
        lambda spec: spec.shortcut == "projection" and spec.stride == 1,
        lambda spec: spec.bias == (True, False, True),
        lambda spec: spec.norm == "none",
        lambda spec: spec.norm == "group" and (spec.norm_groups, spec.output_norm_groups) == (2, 3),
        lambda spec: spec.momentum is None,
        lambda spec: spec.spatial_dims == 3 and spec.kernel_size == 5 and spec.dilation == 2,
        lambda spec: spec.out_channels != spec.in_channels,
    ],
)
def test_every_kind_of_block_can_be_drawn(condition):
    assert condition(minimal(block_specs(), condition))


def test_the_smallest_block_has_one_branch_of_one_channel():
    assert minimal(block_specs()) == BlockSpec(in_channels=1, cardinality=1, width=1, kernel_size=1, spatial_dims=1)


def test_a_field_that_does_not_matter_shrinks_away():
    spec = minimal(block_specs(), lambda spec: spec.cardinality >= 2)
    assert (spec.cardinality, spec.width, spec.in_channels, spec.stride) == (2, 1, 1, 1)


@given(spec=block_specs(stride=2, activation=st.sampled_from(["tanh", "silu"]), max_width=2))
def test_fields_are_fixed_or_drawn_from_what_is_given(spec):
    assert spec.stride == 2
    assert spec.activation in ("tanh", "silu")
    assert spec.width <= 2


@given(spec=block_specs(norm_groups=2, output_norm_groups=st.just(3)))
def test_groups_that_are_asked_for_decide_norm_and_channels(spec):
    assert (spec.norm, spec.width % 2, spec.out_channels % 3) == ("group", 0, 0)


@given(spec=block_specs(shortcut="identity", out_channels=5))
def test_an_identity_decides_the_shapes(spec):
    assert (spec.in_channels, spec.out_channels, spec.stride) == (5, 5, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: block_specs(max_cardinality=0), r"max_cardinality \(=0\) must be an integer of at least 1"),
        (lambda: block_specs(max_width=1.5), r"max_width \(=1.5\) must be an integer"),
        (lambda: block_specs(max_channels=True), r"max_channels \(=True\) must be an integer"),
        (lambda: block_specs(depth=3), "depth is no field of BlockSpec; fields are in_channels, cardinality"),
        (lambda: block_specs(stride=0), r"stride \(=0\) must be at least 1"),
        (lambda: block_specs(norm_groups=0), r"norm_groups \(=0\) must be at least 1"),
        (lambda: block_specs(norm="none", norm_groups=2), r"norm_groups \(=2\) needs norm 'group'"),
        (lambda: block_specs(shortcut="identity", stride=2), r"shortcut \(='identity'\) needs in_channels"),
        (lambda: input_shapes(min_batch=3, max_batch=2), r"min_batch \(=3\) must not exceed max_batch \(=2\)"),
        (lambda: input_shapes(SPEC, max_size=0), r"max_size \(=0\) must be an integer of at least 1"),
        (lambda: input_shapes("32x4d"), r"spec \(='32x4d'\) must be a BlockSpec or a strategy"),
        (lambda: inputs(SPEC, dtype="int8"), r"dtype \(='int8'\) must be one of float64, float32"),
        (lambda: modules(SPEC, dtype=torch.int8), r"dtype \(='int8'\) must be one of"),
        (lambda: forms(names=["fourth"]), r"names \(='fourth'\) must be one of per-branch, concatenated"),
        (lambda: forms(names=[]), r"names \(=\[\]\) must hold at least one of"),
        (lambda: cases(modes="eval"), r"modes \(='eval'\) must hold at least one of"),
        (lambda: cases(dtypes=["int8"]), r"dtypes \(='int8'\) must be one of"),
    ],
)
def test_the_impossible_is_refused_at_the_call(call, message):
    with pytest.raises(InvalidArgument, match=message):
        call()


def test_a_spec_is_drawn_wherever_one_is_annotated():
    register()
    assert minimal(st.from_type(BlockSpec)).template == "1x1d"

    def template(spec: BlockSpec) -> str:
        return spec.template

    assert minimal(st.builds(template)) == "1x1d"


def test_a_smallest_input_is_of_size_1():
    assert minimal(input_shapes(SPEC)) == (1, 3, 1, 1)
    assert minimal(input_shapes(SPEC), lambda shape: shape[2] > shape[3]) == (1, 3, 2, 1)


@given(x=inputs(SPEC, dtype="float64", min_size=3))
def test_no_two_elements_of_an_input_are_alike(x):
    assert x.unique().numel() == x.numel()


NORMED = block_specs(norm=st.sampled_from(["batch", "group"]), out_channels=3)


@given(module=modules(NORMED, dtype=torch.bfloat16))
def test_a_module_is_as_training_leaves_it(module):
    assert not module.training
    drawn = [tensor for tensor in module.norm.state_dict().values() if tensor.dim()]
    assert not any((tensor == 1).all() or (tensor == 0).all() for tensor in drawn)
    assert module.norm.weight.dtype is torch.bfloat16


def test_a_module_can_be_of_every_form():
    for form in (PerBranch, Concatenated, Grouped):
        assert type(minimal(modules(SPEC), lambda module, form=form: isinstance(module, form))) is form
    assert minimal(forms(), lambda form: form is not PerBranch) is Concatenated


def test_drawing_a_module_leaves_the_global_generators_alone():
    before = torch.get_rng_state()
    minimal(modules(SPEC))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_smallest_case_is_two_forms_of_the_smallest_block():
    case = minimal(cases())
    assert (case.left, case.right, case.mode, case.spec.template) == ("per-branch", "concatenated", "eval", "1x1d")
    assert eval(repr(case)) == case
    alone = cases(lefts=["grouped"], rights=["grouped"])
    assert minimal(alone).left == minimal(alone).right == "grouped"


def test_faults_come_from_the_catalogue(monkeypatch):
    def named(name, *, harmless=False):
        return types.SimpleNamespace(name=name, harmless=harmless)

    module = types.ModuleType("equivalence.verdict.faults")
    found = [named("harmless", harmless=True), named("first"), named("second")]
    module.CATALOGUE = {fault.name: fault for fault in found}
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert minimal(faults()).name == "first"
    assert minimal(faults(names=["second"])).name == "second"
    with pytest.raises(InvalidArgument, match=r"names \(='third'\) must be one of first, second"):
        minimal(faults(names=["third"]))
