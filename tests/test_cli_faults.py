"""`equivalence faults` and `equivalence notebook`, as a user meets them."""

import json

import pytest

from equivalence.cli import main

SMALL = ["--in-channels", "4", "--template", "2x2d"]
SOME = ["--fault", "relu6", "--fault", "groups", "--fault", "branches-reordered"]


def test_the_kill_table_ends_in_its_totals_and_exits_with_0(capsys):
    assert main(["faults", *SMALL, *SOME]) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[-1] == "4 of 4 planted faults killed; 0 of 3 harmless changes called different."
    assert "groups does not apply (per-branch): the per-branch form has no groups" in shown
    assert "assert_close passes" in shown
    assert "\x1b" not in shown


def test_the_kill_table_is_strict_json(capsys):
    assert main(["faults", *SMALL, *SOME, "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert document["spec"]["cardinality"] == 2
    killed = document["faults"][0]
    assert (killed["fault"], killed["form"], killed["outcome"]) == ("relu6", "per-branch", "killed")
    assert killed["stage"] == killed["expected"] == "reduced"
    assert {row["outcome"] for row in document["harmless"]} == {"accepted"}


def test_the_kill_table_is_markdown(capsys):
    assert main(["faults", *SMALL, "--fault", "relu6", "--format", "markdown"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("# ResNeXt block")
    assert "| relu6" in shown


def test_quiet_prints_the_totals_only(capsys):
    assert main(["faults", *SMALL, "--fault", "relu6", "--quiet"]) == 0
    assert capsys.readouterr().out == "3 of 3 planted faults killed.\n"


def test_a_survivor_makes_the_exit_status_1(capsys, monkeypatch):
    from equivalence.verdict.faults.fault import Fault

    monkeypatch.setattr(Fault, "plant", lambda self, block, **_: block)
    assert main(["faults", *SMALL, "--fault", "relu6"]) == 1
    assert "SURVIVED: relu6 in concatenated, relu6 in grouped, relu6 in per-branch" in capsys.readouterr().out


def test_nothing_planted_is_exit_status_2(capsys):
    assert main(["faults", *SMALL, "--fault", "stride-in-reduce"]) == 2
    assert "nothing was planted" in capsys.readouterr().out.splitlines()[-1]


def test_an_unknown_fault_is_one_line_that_names_the_known_ones(capsys):
    assert main(["faults", *SMALL, "--fault", "typo"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "fault (='typo') must be one of reduce-branches-swapped, " in captured.err


@pytest.fixture(scope="module")
def story():
    from equivalence.verdict.notebook import explain

    return explain(seed=0)


def test_the_notebook_s_structures_are_different_as_published(story):
    assert [verdict.name for verdict in story.published.verdicts] == ["DIFFERENT"] * 3


def test_three_deviations_matter_and_two_do_not(story):
    harmless = {name for name, judged in story.alone.items() if judged.equivalent}
    assert harmless == {"relu_before_add", "transform_bias"}


def test_no_single_deviation_is_to_blame(story):
    assert not any(judged.equivalent for judged in story.without.values())
    assert story.without["shared_branch"].verdicts[2].name == "EQUIVALENT"  # B / C


def test_the_least_repair_switches_three_deviations_off(story):
    assert story.least == (("shared_branch", "inplace_identity", "norm_in_branches"),)


def test_the_grouped_twin_is_proved(story):
    verdict, reason = story.twin
    assert verdict.name == "EQUIVALENT"
    assert reason.startswith("proved for every input of shape")


def test_the_notebook_s_story_ends_in_the_least_repair(story):
    from equivalence.report.notebook import notebook_sheet

    sheet = notebook_sheet(story, "equivalence notebook", 0)
    last = "A, B and C are equivalent once these are switched off: shared_branch, inplace_identity, norm_in_branches."
    assert sheet.text().splitlines()[-1] == last
    assert sheet.exit_status == 0
    assert json.loads(sheet.json())["alone"][0]["deviation"] == "shared_branch"
    assert f"**{last}**" in sheet.markdown()
