"""A difference planted at a random place is found there: stage, branch and scalar."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from equivalence import BlockSpec, PerBranch, check, convert, locate
from equivalence.blocks.forms import FORMS
from equivalence.blocks.initialize import as_if_trained
from equivalence.verdict.faults import CATALOGUE, DoesNotApply, Spot, fault_named
from tests.strategies import same_bits, seeds, state

SPEC = BlockSpec(in_channels=4, cardinality=3, width=2)
RICH = BlockSpec(in_channels=4, cardinality=2, width=3, stride=2, bias=(True,) * 3, momentum=None)
GROUP_NORMED = BlockSpec(in_channels=4, cardinality=2, width=4, norm="group", norm_groups=2)
ULPS = {"reduce.conv.weight": "reduced", "transform.conv.weight": "transformed", "expand.weight": "aggregated"}


def pair(spec=SPEC, left="per-branch", right="grouped", seed=0):
    torch.manual_seed(seed)
    block = as_if_trained(PerBranch(spec), seed)
    return convert(block, left), convert(block, right)


@settings(max_examples=6)
@given(st.sampled_from(list(ULPS)), st.integers(0, 200), st.sampled_from(list(FORMS)), st.sampled_from(list(FORMS)))
def test_one_ulp_at_a_random_scalar_is_found_with_both_values(row, scalar, left, right):
    a, b = pair(left=left, right=right)
    name = f"one-ulp-in-{row.split('.')[0]}"
    place = locate(a, fault_named(name).plant(b, spot=Spot((0, 1, 2), scalar)))
    sizes = {"reduce.conv.weight": 24, "transform.conv.weight": 108, "expand.weight": 24}
    assert place.scalar.row == row
    assert place.scalar.flat == scalar % sizes[row]
    assert place.scalar.branch == place.scalar.flat // (sizes[row] // 3)
    assert place.scalar.differing == 1
    assert torch.nextafter(torch.tensor(place.scalar.left), torch.tensor(torch.inf)).item() == place.scalar.right
    assert place.stage in (ULPS[row], "unseen")  # behind a ReLU that is off, one ulp may never show


@settings(max_examples=5)
@given(st.integers(0, 2), st.sampled_from(["reduce", "transform"]), seeds())
def test_a_branch_without_activation_is_named(branch, stage, seed):
    a, b = pair(seed=seed)
    planted = fault_named(f"activation-missing-after-{stage}").plant(b, spot=Spot((branch,)))
    place = locate(a, planted)
    assert (place.stage, place.branch) == ({"reduce": "reduced", "transform": "transformed"}[stage], branch)
    assert place.fault == f"activation-missing-after-{stage}"


@pytest.mark.parametrize("name", [name for name, fault in CATALOGUE.items() if not fault.harmless])
def test_every_fault_is_recognised(name):
    fault = fault_named(name)
    for spec in (SPEC, RICH, GROUP_NORMED):
        a, c = pair(spec)
        try:
            planted = fault.plant(c, seed=1)
        except DoesNotApply:
            try:
                a, planted = c, fault.plant(a, seed=1)
            except DoesNotApply:
                continue
        place = locate(a, planted, mode=fault.mode)
        assert (place.stage, place.fault) == (fault.stage, name)
        assert place.looks_like == f"{fault.sentence}, on the right"
        assert place.smallest
        return
    pytest.fail("it applies to no spec")


def test_a_fault_on_the_left_is_recognised():
    a, c = pair()
    place = locate(fault_named("kernel-flipped").plant(a), c)
    # A flip undoes itself, so it is proved on the right first: the mistake is named, the side is either.
    assert place.fault == "kernel-flipped"
    place = locate(fault_named("shortcut-missing").plant(a), c)
    assert place.looks_like == "the shortcut is not added, on the left"


@pytest.mark.parametrize("name", [name for name, fault in CATALOGUE.items() if fault.harmless])
def test_a_harmless_change_has_no_stage(name):
    a, c = pair()
    place = locate(a, fault_named(name).plant(c))
    assert place is None or place.stage == "unseen"


def test_equal_modules_have_no_place():
    assert locate(*pair()) is None


def test_the_kernel_tap_is_named():
    a, c = pair()
    with torch.no_grad():
        c.transform.conv.weight[3, 1, 2, 0] += 1
    place = locate(a, c)
    assert place.scalar.tap == (2, 0)
    assert place.scalar.left_name == "branches.1.transform.conv.weight[1, 1, 2, 0]"
    assert place.scalar.right_name == "transform.conv.weight[3, 1, 2, 0]"
    assert "1 of 108 scalars of transform.conv.weight differ" in str(place)


def test_a_hyper_parameter_is_named_with_both_values():
    a, c = pair()
    c.reduce.norm.eps = 1e-3
    assert "reduce.norm.eps is 1e-05 / 0.001" in locate(a, c).settings


def test_the_example_shrinks_to_one_branch():
    a, c = pair(BlockSpec(in_channels=4, cardinality=4, width=3))
    place = locate(a, fault_named("expand-branches-swapped").plant(c))
    assert place.smallest.startswith("1x")


def test_arbitrary_modules_part_at_the_first_submodule_fed_alike():
    left = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 1)).eval()
    right = nn.ModuleDict({"parts": copy.deepcopy(left)})["parts"]
    right[1].eps, right[3].weight.data = 1e-3, right[3].weight.data * 2
    place = locate(left, right, input_shape=(2, 2, 5, 5))
    assert place.stage == "1"
    assert place.statement.startswith("1 (BatchNorm2d) / 1 (BatchNorm2d): equal inputs, outputs[")


def test_modules_that_need_a_shape_say_so():
    with pytest.raises(ValueError, match="input_shape is needed"):
        locate(nn.ReLU(), nn.ReLU6())


def test_both_modules_are_left_as_they_were_found():
    a, c = pair()
    planted = fault_named("momentum").plant(c)
    before = state(a), state(planted)
    locate(a, planted, mode="train")
    assert same_bits(before[0], state(a))
    assert same_bits(before[1], state(planted))
    assert a.training


def test_check_prints_the_place_and_is_deterministic():
    a, c = pair(BlockSpec(in_channels=2, cardinality=2, width=2))
    planted = fault_named("expand-axis-0").plant(c)
    texts = {str(check(a, planted)) for _ in range(2)}
    assert len(texts) == 1
    (text,) = texts
    assert "first apart: aggregated, channel" in text
    assert "looks like: expand.weight is sliced on axis 0 instead of axis 1, on the right" in text
