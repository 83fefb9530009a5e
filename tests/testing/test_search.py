"""The campaign: what it finds, what replays it, and that nothing is left behind."""

import dataclasses
import re
import shlex

import pytest

from equivalence import BlockSpec, Grouped
from equivalence.cli import main
from equivalence.testing.case import Case

SMALL = ["--examples", "3", "--in-channels", "2", "--spatial-dims", "1", "--kernel-size", "1", "--activation", "relu"]


def replayed(text, capsys):
    """The output of the first replay command in a text."""
    command = re.search(r"replay: equivalence (.*)", text)[1]
    status = main(shlex.split(command))
    return status, capsys.readouterr().out


@pytest.fixture
def broken_groups(monkeypatch):
    """Grouped forms with several branches that are off in their output."""
    honest = Grouped.aggregated

    def aggregated(self, x):
        y = honest(self, x)
        return y * 1.5 if self.spec.cardinality > 1 else y

    monkeypatch.setattr(Grouped, "aggregated", aggregated)


def test_a_clean_campaign_shows_its_worst_case_and_exits_with_0(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["search", *SMALL]) == 0
    shown = capsys.readouterr()
    assert re.search(r"worst case: \S+ of what rounding allows", shown.out)
    assert shown.out.splitlines()[-1] == "EQUIVALENT (3 of 3 cases equivalent)"
    assert shown.err == ""
    assert list(tmp_path.iterdir()) == []


def test_the_worst_case_is_replayed_to_the_same_figure(capsys):
    main(["search", *SMALL, "--dtype", "float32", "--mode", "eval"])
    first = capsys.readouterr().out
    status, again = replayed(first, capsys)
    assert status == 0
    figure = re.compile(r"worst case: (\S+) of")
    assert figure.search(first)[1] == figure.search(again)[1]


def test_a_failure_shrinks_to_the_smallest_block_and_is_replayed(broken_groups, capsys):
    options = ["--mode", "eval", "--dtype", "float32", "--right", "grouped", "--left", "per-branch"]
    assert main(["search", *SMALL[2:], *options, "--examples", "10"]) == 1
    text = capsys.readouterr().out
    assert "smallest case that is DIFFERENT" in text
    case = eval(re.search(r"@example\(case=(.*)\)", text)[1])
    assert isinstance(case, Case)
    assert (case.spec.cardinality, case.spec.width, case.spec.stride, case.seed) == (2, 1, 1, 0)
    assert case.check().verdict.name == "DIFFERENT"
    assert replayed(text, capsys)[0] == 1


def test_the_same_seed_runs_the_same_campaign(capsys):
    texts = []
    for _ in range(2):
        main(["search", *SMALL, "--format", "json", "--seed", "5"])
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]


def test_undecided_alone_exits_with_2(capsys, monkeypatch):
    import equivalence.testing.case
    from equivalence import Verdict

    honest = Case.check
    monkeypatch.setattr(
        equivalence.testing.case.Case,
        "check",
        lambda self: dataclasses.replace(honest(self), verdict=Verdict.UNDECIDED),
    )
    assert main(["search", *SMALL, "--examples", "1", "--mode", "eval"]) == 2
    assert "smallest case that is UNDECIDED" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--examples", "0"], "Invalid value for '--examples'"),
        (["--max-cardinality", "0"], "max_cardinality (=0) must be an integer of at least 1"),
        (["--stride", "0"], "stride (=0) must be at least 1"),
        (["--mode", "trian"], "'trian' is not one of 'eval', 'train'"),
        (["--momentum", "often"], "momentum (='often') must be a number or 'none'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_2(options, message, capsys):
    assert main(["search", *options]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_every_field_of_a_spec_is_in_the_replay():
    from equivalence.testing.search import replay

    spec = BlockSpec(in_channels=2, cardinality=1, width=1, bias=(True, False, True), momentum=None)
    command = replay(Case(spec, "grouped", "per-branch"), 3)
    assert "--bias true false true" in command
    assert "--momentum none" in command
    assert all(f"--{field.name.replace('_', '-')} " in command for field in dataclasses.fields(spec))
