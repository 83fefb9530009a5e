"""A spec that exists is valid, and one that cannot exist says why."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import block_specs
from torch.nn.modules import activation as torch_activations

from equivalence import BlockSpec, SpecError
from equivalence.blocks.spec import ACTIVATIONS

SMALLEST = {"in_channels": 4, "cardinality": 2, "width": 3}


@given(spec=block_specs())
def test_a_spec_survives_json(spec):
    assert BlockSpec.from_json(spec.to_json()) == spec


@given(spec=block_specs())
def test_json_holds_every_field(spec):
    assert list(json.loads(spec.to_json())) == [f.name for f in dataclasses.fields(BlockSpec)]


@given(spec=block_specs())
def test_a_spec_and_its_equal_are_one_key(spec):
    assert {spec: 1}[BlockSpec(**spec.to_dict())] == 1


@given(spec=block_specs(), field=st.sampled_from(["cardinality", "width", "dilation"]))
def test_specs_that_differ_in_one_field_differ(spec, field):
    assert dataclasses.replace(spec, **{field: 2 * getattr(spec, field)}) != spec


@given(spec=block_specs())
def test_a_template_names_cardinality_and_width(spec):
    fields = spec.to_dict()
    del fields["cardinality"], fields["width"]
    assert BlockSpec.from_template(spec.template, **fields) == spec


def test_a_spec_is_frozen_and_takes_keywords_only():
    with pytest.raises(dataclasses.FrozenInstanceError):
        BlockSpec(**SMALLEST).width = 5
    with pytest.raises(TypeError, match="positional"):
        BlockSpec(4, 2, 3)


def test_defaults_are_those_of_the_paper():
    assert BlockSpec(in_channels=256, cardinality=32, width=4).to_dict() == {
        "in_channels": 256,
        "cardinality": 32,
        "width": 4,
        "out_channels": 256,
        "kernel_size": 3,
        "stride": 1,
        "dilation": 1,
        "bias": [False, False, False],
        "norm": "batch",
        "norm_groups": 1,
        "output_norm_groups": 1,
        "eps": 1e-5,
        "momentum": 0.1,
        "activation": "relu",
        "shortcut": "identity",
        "spatial_dims": 2,
    }


@pytest.mark.parametrize(
    ("fields", "shortcut"),
    [({}, "identity"), ({"out_channels": 5}, "projection"), ({"stride": 2}, "projection")],
)
def test_the_shortcut_is_the_identity_where_shapes_allow_it(fields, shortcut):
    assert BlockSpec(**SMALLEST, **fields).shortcut == shortcut


def test_integers_of_numpy_become_integers():
    spec = BlockSpec(in_channels=np.int64(4), cardinality=np.int32(2), width=np.uint8(3))
    assert spec == BlockSpec(**SMALLEST)
    assert all(type(getattr(spec, field)) is int for field in SMALLEST)


def test_a_list_of_biases_is_a_tuple_of_biases():
    assert BlockSpec(**SMALLEST, bias=[True, False, True]).bias == (True, False, True)


@given(spec=block_specs())
def test_padding_keeps_sizes_at_stride_one(spec):
    assert 2 * spec.padding == spec.dilation * (spec.kernel_size - 1)


@pytest.mark.parametrize(("dims", "shape"), [(1, (2, 4, 9)), (2, (2, 4, 9, 9)), (3, (2, 4, 9, 9, 9))])
def test_an_input_has_the_spatial_axes_of_the_spec(dims, shape):
    assert BlockSpec(**SMALLEST, spatial_dims=dims).input_shape(batch=2, size=9) == shape


ONE_OF = "must be one of "
REFUSALS = {
    "cardinality (=0) must be at least 1": {"cardinality": 0},
    "in_channels (=0) must be at least 1": {"in_channels": 0},
    "out_channels (=0) must be at least 1": {"out_channels": 0},
    "width (=-1) must be at least 1; stride (=0) must be at least 1": {"width": -1, "stride": 0},
    "width (=2.0) must be an integer": {"width": 2.0},
    "width (='4') must be an integer": {"width": "4"},
    "width (=True) must be an integer": {"width": True},
    "kernel_size (=2) must be odd, so that it has a centre": {"kernel_size": 2},
    "bias (=True) must be three booleans: reduce, transform, expand": {"bias": True},
    "bias (=(1, 0, 0)) must be three booleans: reduce, transform, expand": {"bias": (1, 0, 0)},
    "norm (='layer') must be one of batch, group, none": {"norm": "layer"},
    "norm_groups (=0) must be at least 1": {"norm_groups": 0},
    "norm_groups (=2) must divide width (=3); use a divisor, such as 1": {"norm": "group", "norm_groups": 2},
    "output_norm_groups (=3) must divide out_channels (=4); use a divisor, such as 1": {
        "norm": "group",
        "output_norm_groups": 3,
    },
    "norm_groups (=3) needs norm 'group', not 'batch'; leave it at 1": {"norm_groups": 3},
    "output_norm_groups (=2) needs norm 'group', not 'none'; leave it at 1": {"norm": "none", "output_norm_groups": 2},
    "eps (=0) must be positive and finite": {"eps": 0},
    "eps (=nan) must be positive and finite": {"eps": math.nan},
    "eps (=inf) must be positive and finite": {"eps": math.inf},
    "momentum (=1.5) must lie between 0 and 1, or be None": {"momentum": 1.5},
    "momentum (=nan) must lie between 0 and 1, or be None": {"momentum": math.nan},
    f"activation (='rely') {ONE_OF}{', '.join(ACTIVATIONS)}": {"activation": "rely"},
    f"shortcut (='skip') {ONE_OF}identity, projection, none": {"shortcut": "skip"},
    f"shortcut (='') {ONE_OF}identity, projection, none": {"shortcut": ""},
    "shortcut (='identity') needs in_channels (=4) equal to out_channels (=5) and stride (=1) 1; "
    "use 'projection' or 'none'": {"shortcut": "identity", "out_channels": 5},
    "shortcut (='identity') needs in_channels (=4) equal to out_channels (=4) and stride (=2) 1; "
    "use 'projection' or 'none'": {"shortcut": "identity", "stride": 2},
    "spatial_dims (=4) must be 1, 2 or 3": {"spatial_dims": 4},
    "kernel_size (=4) must be odd, so that it has a centre; norm (='x') must be one of batch, group, none": {
        "kernel_size": 4,
        "norm": "x",
    },
}


@pytest.mark.parametrize("message", REFUSALS)
def test_a_wrong_value_is_named_with_its_field_and_the_rule(message):
    with pytest.raises(SpecError) as refused:
        BlockSpec(**SMALLEST | REFUSALS[message])
    assert str(refused.value) == message


@pytest.mark.parametrize("template", ["32x4", "x4d", "32x4d ", "32X4d", "", "-1x4d"])
def test_a_template_that_is_none_is_refused(template):
    with pytest.raises(SpecError) as refused:
        BlockSpec.from_template(template, in_channels=4)
    assert str(refused.value) == (f"template (={template!r}) must look like '32x4d': cardinality x width d")


def test_a_template_of_no_branches_is_refused():
    with pytest.raises(SpecError, match=r"^cardinality \(=0\) must be at least 1$"):
        BlockSpec.from_template("0x4d", in_channels=4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "spec must be a JSON object: Expecting property name enclosed in double quotes: "),
        ("[1]", "spec must be a JSON object, not list"),
        ('{"groups": 2}', "spec has unknown fields ['groups']; known are ['activation', 'bias', "),
        ('{"in_channels": 4, "width": 3}', "spec lacks ['cardinality']"),
        ('{"in_channels": 4, "cardinality": 0, "width": 3}', "cardinality (=0) must be at least 1"),
    ],
)
def test_json_that_holds_no_spec_is_refused(text, message):
    with pytest.raises(SpecError) as refused:
        BlockSpec.from_json(text)
    assert str(refused.value).startswith(message)


# Every class of torch.nn.modules.activation is either an activation of a spec, or unfit for a
# reason that can be observed.


def spelled(name: str) -> str:
    return name.lower().replace("_", "")


def unfit(name: str) -> str | None:
    """Why a class of torch.nn.modules.activation is no activation of a spec, or None."""
    try:
        module = getattr(torch.nn, name)()
    except TypeError:
        return "needs arguments"
    if list(module.parameters()):
        return "has parameters"
    x = torch.linspace(-4, 4, 64, dtype=torch.float64).reshape(2, 4, 8)
    if not torch.equal(module.train()(x), module.train()(x)):
        return "draws random numbers"
    moved, changed = x.flip(0, 1, 2), x.clone()
    changed[0, 0, 0] = 5
    follows = module(x).shape == x.shape and close(module(moved), module(x).flip(0, 1, 2))
    stays = close(module(changed).flatten()[1:], module(x).flatten()[1:])
    return None if follows and stays else "does not act element by element"


def close(left, right):
    return torch.allclose(left, right, rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_listed_activation_is_a_function_of_torch_that_acts_element_by_element(name):
    (module,) = [m for m in torch_activations.__all__ if spelled(m) == spelled(name)]
    x = torch.linspace(-4, 4, 64)
    assert unfit(module) is None
    assert torch.equal(getattr(torch.nn.functional, name)(x), getattr(torch.nn, module)()(x))


UNLISTED = [name for name in torch_activations.__all__ if spelled(name) not in map(spelled, ACTIVATIONS)]


@pytest.mark.filterwarnings("ignore:Implicit dimension choice:UserWarning")
@pytest.mark.parametrize("name", UNLISTED)
def test_an_unlisted_activation_is_unfit(name):
    reasons = {
        "PReLU": "has parameters",
        "RReLU": "draws random numbers",
        "Threshold": "needs arguments",
        "MultiheadAttention": "needs arguments",
    }
    assert unfit(name) == reasons.get(name, "does not act element by element")
