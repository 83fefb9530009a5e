"""The command line, as a user meets it: exit status, streams, files, one line for a mistake."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from equivalence import BlockSpec
from equivalence.cli import main

SMALL = ["--in-channels", "4", "--template", "2x2d", "--size", "5"]


def run(*arguments, **options):
    """The command in a process of its own."""
    command = [sys.executable, "-m", "equivalence", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@pytest.fixture(scope="module")
def report():
    return run("report", *SMALL)


def test_a_report_of_transferred_forms_ends_in_the_verdict_and_exits_with_0(report):
    assert report.returncode == 0
    assert report.stdout.splitlines()[-1] == "EQUIVALENT (3 of 3 pairs equivalent)"


def test_independent_weights_are_shown_to_differ(report):
    before, after = report.stdout.split("Weights transferred")
    assert before.count(": DIFFERENT") == 3
    assert after.count(": EQUIVALENT") == 3


def test_nothing_but_the_result_is_printed_when_piped(report):
    assert report.stderr == ""
    assert "\x1b" not in report.stdout


def test_a_piped_table_is_never_cut(report):
    assert "…" not in report.stdout
    assert "per-branch / concatenated" in report.stdout


def test_colours_can_be_forced_and_forbidden():
    forced = run("report", *SMALL, env=os.environ | {"FORCE_COLOR": "1"})
    assert "\x1b[1;32mEQUIVALENT" in forced.stdout


def test_json_is_strict_and_has_the_contract_s_keys(capsys):
    assert main(["report", *SMALL, "--format", "json", "--mode", "train", "--gradients"]) == 0
    document = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert list(document) == [
        "schema_version",
        "version",
        "command",
        "seed",
        "environment",
        "spec",
        "results",
        "notes",
        "verdict",
    ]
    assert document["verdict"] == "equivalent"
    result = document["results"][-1]
    assert (result["left"], result["right"], result["weights"]) == (
        "concatenated",
        "grouped",
        "transferred",
    )
    assert {"max_abs_diff", "max_rel_diff", "max_ulp_diff", "bound"} <= result["quantities"][0].keys()
    names = [quantity["name"] for quantity in result["quantities"]]
    assert "transform.conv.weight.grad" in names
    assert "reduce.norm.running_var" in names


def test_markdown_has_a_table_for_each_kind_of_weights(capsys):
    assert main(["report", *SMALL, "--format", "markdown"]) == 0
    assert capsys.readouterr().out.count("|-----") >= 2


def test_html_is_one_page_that_ends_in_the_verdict(capsys):
    assert main(["report", *SMALL, "--format", "html"]) == 0
    page = capsys.readouterr().out
    assert page.startswith("<!DOCTYPE html>")
    assert page.rindex("EQUIVALENT") > page.rindex("concatenated / grouped")
    assert "http" not in page


def test_the_mapping_names_both_slices(capsys):
    main(["report", *SMALL, "--mapping"])
    assert "branches.1.expand.weight → expand.weight[:, 2:4]  (4, 2, 1, 1)" in capsys.readouterr().out


def test_quiet_prints_the_verdict_only(capsys):
    assert main(["report", *SMALL, "--quiet"]) == 0
    assert capsys.readouterr().out == "EQUIVALENT\n"


def test_the_same_seed_gives_the_same_bytes(capsys):
    texts = []
    for _ in range(2):
        main(["report", *SMALL, "--format", "json", "--seed", "7"])
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]


def test_output_goes_whole_into_the_file(tmp_path, capsys):
    target = tmp_path / "report.md"
    assert main(["report", *SMALL, "--format", "markdown", "--output", str(target)]) == 0
    assert target.read_text().startswith("# ResNeXt block")
    assert [path.name for path in tmp_path.iterdir()] == ["report.md"]
    assert capsys.readouterr().out == ""


def test_show_prints_every_form_s_parameters(capsys):
    assert main(["show"]) == 0
    assert capsys.readouterr().out.count("71,168") >= 3


def test_show_notebook_prints_the_published_totals(capsys):
    assert main(["show", "--notebook"]) == 0
    shown = capsys.readouterr().out
    assert "87,168" in shown
    assert shown.count("71,296") >= 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cardinality", "0"], "cardinality (=0) must be at least 1"),
        (["--activation", "swish"], "activation (='swish') must be one of relu, relu6"),
        (["--kernel-size", "4"], "kernel_size (=4) must be odd, so that it has a centre"),
        (["--shortcut", "identity", "--stride", "2"], "use 'projection' or 'none'"),
        (["--template", "32"], "template (='32') must look like '32x4d'"),
        (["--norm-groups", "2"], "norm_groups (=2) needs norm 'group', not 'batch'; leave it at 1"),
        (["--norm", "group", "--output-norm-groups", "3"], "output_norm_groups (=3) must divide out_channels (=4)"),
        (["--momentum", "often"], "momentum (='often') must be a number or 'none'"),
        (["--dtype", "int3"], "'int3' is not one of 'float64', 'float32'"),
        (["--device", "tpu9"], "device (='tpu9') must be one that is here"),
        (["--size", "0"], "Invalid value for '--size'"),
        (["--output", "/no/such/folder/r.txt"], "folder /no/such/folder does not exist; create it"),
        (["--mode", "train", "--size", "1", "--batch", "1"], "more than 1 value per channel"),
        (["--frobnicate"], "No such option: --frobnicate"),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_exit_status_2(arguments, message, capsys):
    assert main(["report", *SMALL, *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert message in captured.err


def test_every_field_of_a_block_is_an_option_of_a_report(capsys):
    assert main(["report", "--help"]) == 0
    described = capsys.readouterr().out
    assert all(f"--{field.name.replace('_', '-')} " in described for field in dataclasses.fields(BlockSpec))


def test_help_answers_without_torch_and_shows_examples_first():
    code = "import sys; from equivalence.cli import main; main(['-h']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.index("Examples:") < done.stdout.index("Says whether")


def test_a_closed_pipe_is_no_traceback():
    command = f"{sys.executable} -m equivalence report {' '.join(SMALL)} --mapping | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_without_a_command_help_is_printed_and_nothing_was_compared(capsys):
    assert main([]) == 2
    assert "Examples:" in capsys.readouterr().out
