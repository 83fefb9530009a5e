"""Every planted fault is caught in every form in which it can be planted; no harmless change is called different."""

import collections
import contextlib
import importlib.util
import sys
import types

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from equivalence import BlockSpec, PerBranch, Verdict, check, convert
from equivalence.blocks.forms import FORMS
from equivalence.blocks.initialize import as_if_trained
from equivalence.report.faults import kill_sheet
from equivalence.verdict.faults import CATALOGUE, DoesNotApply, Spot, fault_named
from equivalence.verdict.faults.kill import Bench, Trial, kill_table
from equivalence.verdict.faults.others import others
from tests.strategies import block_specs, same_bits, seeds, state

# Between them these have all that a fault can need: every bias, stride, a counter that is read, several branches.
SPECS = {
    "plain": BlockSpec(in_channels=4, cardinality=3, width=2),
    "strided": BlockSpec(in_channels=4, cardinality=2, width=3, stride=2, bias=(True,) * 3, momentum=None),
    "group-normed": BlockSpec(in_channels=4, cardinality=2, width=4, norm="group", norm_groups=2),
}
HARMFUL = [fault for fault in CATALOGUE.values() if not fault.harmless]
HARMLESS = [fault for fault in CATALOGUE.values() if fault.harmless]


@pytest.fixture(scope="module")
def benches():
    return {name: Bench(spec) for name, spec in SPECS.items()}


def pair(spec, left="per-branch", right="grouped"):
    torch.manual_seed(0)
    block = as_if_trained(PerBranch(spec), 0)
    return convert(block, left), convert(block, right)


def trials(benches, fault):
    """In every form, of the first block in which it applies to any."""
    for bench in benches.values():
        tried = [bench.trial(fault, form) for form in FORMS]
        if applied := [trial for trial in tried if trial.outcome != "not applicable"]:
            return applied
    return []


def test_there_are_at_least_thirty_mistakes_in_every_group_of_the_catalogue():
    assert len(HARMFUL) >= 30
    groups = collections.Counter(fault.group for fault in CATALOGUE.values())
    assert set(groups) == {
        "slices", "forgotten state", "hyper-parameters", "structure", "precision", "training", "harmless",
    }  # fmt: skip


def test_a_fault_s_sentence_is_one_sentence_without_a_full_stop():
    for fault in CATALOGUE.values():
        assert fault.sentence.strip(".") == fault.sentence
        assert "\n" not in fault.sentence


@pytest.mark.parametrize("fault", HARMFUL, ids=lambda fault: fault.name)
def test_a_fault_is_killed_where_it_was_planted_in_every_form(benches, fault):
    tried = trials(benches, fault)
    assert tried, "it applies to no spec"
    assert {(trial.outcome, trial.stage) for trial in tried} == {("killed", fault.stage)}
    assert all("rounding explains" in trial.statement for trial in tried)


@pytest.mark.parametrize("fault", HARMLESS, ids=lambda fault: fault.name)
def test_a_harmless_change_is_proved_equal_in_every_form(benches, fault):
    tried = trials(benches, fault)
    assert {(trial.outcome, trial.evidence) for trial in tried} == {("accepted", "field, outputs")}


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("fault", HARMLESS, ids=lambda fault: fault.name)
def test_check_calls_a_harmless_change_equivalent(fault, mode):
    spec = BlockSpec(in_channels=2, cardinality=2, width=2)
    left, right = pair(spec)
    report = check(left, fault.plant(right), mode=mode)
    assert report.verdict is Verdict.EQUIVALENT


@pytest.mark.parametrize(
    "name", ["expand-axis-0", "eps-sixth-digit", "leaky", "one-ulp-in-transform", "gradient-cut", "biased-variance"]
)
def test_check_calls_a_fault_different(name):
    fault, spec = fault_named(name), BlockSpec(in_channels=2, cardinality=2, width=2)
    left, right = pair(spec)
    report = check(left, fault.plant(right), mode=fault.mode)
    assert report.verdict is Verdict.DIFFERENT
    assert report.place.fault == name


@given(block_specs(), st.sampled_from(list(CATALOGUE)), st.sampled_from(list(FORMS)), seeds())
def test_planting_leaves_the_block_as_it_was_and_says_why_it_does_not_apply(spec, name, form, seed):
    block = FORMS[form](spec)
    before, printed = state(block), repr(block)
    try:
        planted = fault_named(name).plant(block, seed=seed)
    except DoesNotApply as error:
        reason = str(error)
        assert reason
    else:
        assert planted is not block
        planted(torch.zeros(spec.input_shape(batch=2, size=5)))
    assert same_bits(before, state(block))
    assert repr(block) == printed
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in block.modules())


def test_a_fault_that_would_change_nothing_says_so():
    fresh = PerBranch(SPECS["plain"])
    with pytest.raises(DoesNotApply, match=r"changes no scalar of transform\.norm\.running_mean"):
        fault_named("transform-running-mean-forgotten").plant(fresh)


def test_one_branch_has_no_two_branches_to_swap():
    one = PerBranch(BlockSpec(in_channels=4, cardinality=1, width=2))
    with pytest.raises(DoesNotApply, match="it takes two branches, and there is one"):
        fault_named("expand-branches-swapped").plant(one)


def test_a_spot_says_where_a_fault_is_planted():
    _, block = pair(SPECS["plain"])
    planted = fault_named("branch-in-bfloat16").plant(block, spot=Spot((2, 0)))
    changed = (planted.transform.conv.weight != block.transform.conv.weight).flatten(1).any(1)
    assert changed.tolist() == [False] * 4 + [True] * 2


def test_an_unknown_fault_is_named_with_those_that_are_known():
    with pytest.raises(ValueError, match=r"fault \(='typo'\) must be one of reduce-branches-swapped, "):
        fault_named("typo")


def test_the_table_shows_what_other_tools_miss():
    (trial, *_) = kill_table(SPECS["plain"], [fault_named("one-ulp-in-expand")])
    assert trial.tools["assert_close"] is True


@pytest.mark.parametrize("newer", [True, False])
def test_polygraphy_has_its_column_where_it_is_installed(monkeypatch, newer):
    """Through the name that it has today and through the one that it deprecates."""
    known = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "polygraphy" or known(name))

    def compare(left, right):
        """What the real one gives: a result for each output, true where it matches."""
        return {"output": bool(np.abs(left["output"] - right["output"]).max() < 1e-5)}

    function = {"SimpleCompareFunc": lambda: compare} if newer else {}
    comparator = types.SimpleNamespace(
        IterationResult=lambda outputs, runner_name: outputs,
        CompareFunc=types.SimpleNamespace(simple=lambda: pytest.fail("deprecated") if newer else compare),
        **function,
    )
    log = types.SimpleNamespace(verbosity=lambda _: contextlib.nullcontext(), CRITICAL=50)
    monkeypatch.setitem(sys.modules, "polygraphy", types.ModuleType("polygraphy"))
    monkeypatch.setitem(sys.modules, "polygraphy.comparator", comparator)
    monkeypatch.setitem(sys.modules, "polygraphy.logger", types.SimpleNamespace(G_LOGGER=log))
    faults = [fault_named(name) for name in ("one-ulp-in-expand", "shortcut-missing")]
    trials = list(kill_table(SPECS["plain"], faults))
    assert [trial.tools["polygraphy"] for trial in trials] == [True] * 3 + [False] * 3


def test_a_tool_that_is_not_installed_has_no_column(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "polygraphy" else name)
    assert list(others()) == ["torch.allclose", "assert_close", "numpy.allclose"]


def test_a_survivor_fails_the_table_and_is_named():
    survivor = Trial("invisible", "nothing", "precision", "grouped", "concatenated", "survived")
    sheet = kill_sheet([survivor], SPECS["plain"], "equivalence faults", 0)
    assert sheet.exit_status == 1
    assert sheet.conclusion == "0 of 1 planted faults killed; SURVIVED: invisible in grouped."


def test_a_change_wrongly_called_different_fails_the_table():
    wolf = Trial("fine", "nothing", "harmless", "grouped", "concatenated", "called different")
    sheet = kill_sheet([wolf], SPECS["plain"], "equivalence faults", 0)
    assert sheet.exit_status == 1
    assert sheet.conclusion == "1 of 1 harmless changes called different; WRONGLY: fine in grouped."


def test_a_block_without_the_fault_survives_its_trial(benches, monkeypatch):
    """The table can fail: a fault that plants nothing is reported as a survivor."""
    bench = benches["plain"]
    fault = fault_named("leaky")
    monkeypatch.setattr(type(fault), "plant", lambda self, block, **_: block)
    assert bench.trial(fault, "grouped").outcome == "survived"
