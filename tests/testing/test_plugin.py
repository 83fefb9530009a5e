"""The plugin from outside: small test files, run as a user runs them, in one process and in two."""

import copy
import json
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
import torch._dynamo

# pytester forgets what is imported while it runs; torch cannot be loaded twice, nor should we be.
import equivalence.report.json
import equivalence.report.markdown
import equivalence.testing.blindness
import equivalence.testing.build
import equivalence.testing.records  # noqa: F401  # loaded, not used
from equivalence.testing.names import DTYPES, FORM_NAMES, MODES

pytest_plugins = ["pytester"]

HEAD = """
    import pytest, torch
    from equivalence import BlockSpec, Grouped
    from hypothesis import given, settings, strategies as st

    spec = BlockSpec(in_channels=2, cardinality=2, width=1, kernel_size=1, spatial_dims=1)
"""
PASSES = """
    def test_forms(equivalence):
        a, b, c = equivalence.forms(spec)
        equivalence.assert_equivalent(a, c)
"""
FAILS = """
    def test_other_weights(equivalence):
        a, b, c = equivalence.forms(spec)
        equivalence.assert_equivalent(a, Grouped(spec))
"""


@pytest.fixture
def run(pytester, monkeypatch):
    """Run pytest on a test file in this process."""
    monkeypatch.setenv("COLUMNS", "400")  # the short summary is cut at the edge of the terminal

    def run(source, *options):
        pytester.makepyfile(HEAD + source)
        return pytester.runpytest_inprocess("-p", "no:xdist", "-p", "no:cacheprovider", *options)

    return run


class Bias:
    """A planted fault: the last norm's bias is off in one channel."""

    name, mode, harmless = "bias off", "eval", False

    def plant(self, module):
        faulty = copy.deepcopy(module)
        with torch.no_grad():
            faulty.norm.bias[0] += 1
        return faulty


class Detached(Bias):
    """A planted fault that outputs cannot show: the gradient is cut."""

    name = "gradient cut"

    def plant(self, module):
        faulty = copy.deepcopy(module)
        faulty.shortcut.forward = lambda x: x.detach()
        return faulty


class Nothing(Bias):
    """Nothing is changed: no reason to fail a test."""

    name = "nothing"

    def plant(self, module):
        return copy.deepcopy(module)


class Elsewhere(Bias):
    """A planted fault that has no place in this block."""

    name = "elsewhere"

    def plant(self, module):
        raise DoesNotApplyError


class DoesNotApplyError(ValueError):
    """What the catalogue raises where a fault has no place."""


@pytest.fixture(autouse=True)
def planted(request, monkeypatch):
    """A catalogue of few, whose fates are known."""
    if "real_catalogue" in request.fixturenames:
        return
    module = types.ModuleType("equivalence.verdict.faults")
    module.CATALOGUE = {fault.name: fault for fault in (Bias(), Detached(), Nothing(), Elsewhere())}
    module.DoesNotApply = DoesNotApplyError
    monkeypatch.setitem(sys.modules, module.__name__, module)


def test_equivalent_forms_pass_and_stand_in_the_summary(run):
    result = run(PASSES)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["*= equivalence =*", "verdict *max-abs-diff*of bound*", "EQUIVALENT*test_forms: per-branch / grouped"]
    )


def test_the_first_line_of_a_failure_is_the_whole_verdict(run):
    result = run(FAILS, "-ra")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["FAILED *::test_other_weights - AssertionError: per-branch / grouped: DIFFERENT, outputs[[]*apart where*"]
    )
    result.stdout.no_fnmatch_line("*fixture.py*")
    result.stdout.fnmatch_lines(["E *again: pytest *::test_other_weights --equivalence-seed 0"])


def test_a_bare_assert_of_a_check_shows_the_verdict_too(run):
    result = run(
        """
    def test_bare(equivalence):
        a, b, c = equivalence.forms(spec)
        assert equivalence.check(a, Grouped(spec))
    """
    )
    result.stdout.fnmatch_lines(["FAILED *<Report per-branch / grouped: DIFFERENT, outputs*of shape (*)*"])


def test_a_test_that_uses_the_fixture_and_compares_nothing_fails(run):
    result = run("    def test_nothing(equivalence):\n        equivalence.forms(spec)\n")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["FAILED *equivalence: compared nothing: the test uses the fixture*"])


def test_skipped_and_failing_tests_keep_their_own_reason(run):
    result = run(
        """
    def test_skipped(equivalence):
        pytest.skip("not today")
    def test_failing(equivalence):
        assert not "own reason"
    @pytest.mark.xfail
    def test_expected(equivalence):
        pass
    """
    )
    result.assert_outcomes(skipped=1, failed=1, xfailed=1)
    result.stdout.fnmatch_lines(["*assert not 'own reason'"])


def test_a_fixture_may_build_forms_for_tests_that_compare_nothing(run):
    result = run(
        """
    @pytest.fixture
    def forms(equivalence):
        return equivalence.forms(spec)
    def test_count(forms):
        assert len(forms) == 3
    """
    )
    result.assert_outcomes(passed=1)


def test_hypothesis_may_call_the_fixture_often(run):
    result = run(
        """
    @settings(max_examples=3, database=None, deadline=None)
    @given(seed=st.integers(0, 3))
    def test_many(equivalence, seed):
        a, b, c = equivalence.forms(spec)
        equivalence.assert_equivalent(a, b, seed=seed)
    """
    )
    result.assert_outcomes(passed=1)


def test_the_marker_sets_what_a_check_leaves_open(run):
    result = run(
        """
    pytestmark = pytest.mark.equivalence(mode="train", seed=7)
    @pytest.mark.equivalence(dtype="bfloat16", mode="eval", experiments=("outputs",))
    def test_marked(equivalence):
        a, b, c = equivalence.forms(spec)
        report = equivalence.check(a, c)
        assert (report.mode, report.dtype, a.norm.weight.dtype) == ("eval", "bfloat16", torch.bfloat16)
        assert {e.experiment for e in report.evidence} == {"outputs"}
        assert equivalence.check(a, c, mode="train", dtype="float64").mode == "train"
    """
    )
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("mode='trian'", "mode (='trian') must be one of eval, train"),
        ("dtype='int8'", "dtype (='int8') must be one of float64, float32"),
        ("seed=-1", "seed (=-1) must be an integer of at least 0"),
        ("sede=1", "unknown argument 'sede'; there are mode, dtype, seed, experiments"),
        ("'train'", "takes no positional arguments"),
        ("experiments=('output',)", "experiments (=('output',)) must be some of"),
        ("experiments='outputs'", "experiments (='outputs') must be some of"),
        ("experiments=()", "experiments (=()) must be some of"),
        ("mode='eval', experiments=['outputs after an SGD step']", "in mode 'eval'"),
    ],
)
def test_a_wrong_marker_is_a_usage_error_that_names_value_and_rule(run, marker, message):
    result = run(f"    @pytest.mark.equivalence({marker})\n    def test_marked(equivalence): pass\n")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert message in result.stderr.str()
    assert "Traceback" not in result.stderr.str()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--equivalence-report", "report.pdf"], "suffix must be one of .json, .md, .txt"),
        (["--equivalence-report", "no/such/r.md"], "folder no/such does not exist; create it"),
        (["--equivalence-seed", "-1"], "--equivalence-seed (=-1) must be at least 0"),
        (["--equivalence-seed", "often"], "invalid int value: 'often'"),
    ],
)
def test_a_wrong_option_is_a_usage_error(run, options, message):
    result = run(PASSES, *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert message in result.stderr.str()


def test_an_argument_that_no_check_has_is_named(run):
    result = run("    def test_typo(equivalence):\n        equivalence.check(None, None, sede=1)\n")
    result.stdout.fnmatch_lines(["*check() got an unexpected keyword argument 'sede'*"])


@pytest.mark.parametrize("name", ["r.json", "r.md", "r.txt"])
def test_a_report_has_all_checks_in_the_format_of_its_suffix(run, pytester, name):
    run(PASSES + FAILS, "--equivalence-report", name, "--equivalence-seed", "3")
    text = (pytester.path / name).read_text()
    assert "test_forms, check 1: per-branch / grouped: EQUIVALENT" in text
    if name == "r.json":
        report = json.loads(text)
        assert (report["seed"], report["verdict"], len(report["results"])) == (3, "different", 2)
    else:
        assert "DIFFERENT" in text.splitlines()[-1]
    assert not list(pytester.path.glob(".r.*"))


def test_a_check_that_catches_every_fault_passes(run):
    result = run(PASSES, "--equivalence-faults")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["EQUIVALENT*2 of 2*test_forms: per-branch / grouped"])


def test_a_test_that_is_blind_to_a_fault_fails_and_names_it(run):
    result = run(
        """
    @pytest.mark.equivalence(experiments=["outputs"])
    def test_outputs(equivalence):
        a, b, c = equivalence.forms(spec)
        equivalence.assert_equivalent(a, c)
    """,
        "--equivalence-faults",
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["FAILED *equivalence: blind to 'gradient cut': 1 of 2 faults planted in the right side pass*"]
    )


@pytest.fixture
def real_catalogue():
    """The catalogue as users have it."""


REAL = """
    @pytest.mark.parametrize("mode", ["eval", "train"])
    def test_forms(equivalence, mode):
        a, b, c = equivalence.forms(BlockSpec(in_channels=4, cardinality=2, width=2))
        equivalence.assert_equivalent(a, c, mode=mode)
"""


def test_every_known_mistake_is_caught_by_a_whole_check(real_catalogue, run):
    result = run(REAL, "--equivalence-faults")
    result.assert_outcomes(passed=2)
    ((caught, planted),) = re.findall(r"EQUIVALENT .* (\d+) of (\d+) .*test_forms", result.stdout.str())
    assert caught == planted
    assert int(planted) > 40


def test_a_check_of_outputs_alone_is_blind_to_a_cut_gradient(real_catalogue, run):
    result = run("    @pytest.mark.equivalence(experiments=['outputs'])" + REAL, "--equivalence-faults", "-k", "eval")
    result.stdout.fnmatch_lines(["FAILED *test_forms*eval* - *blind to *gradient-cut*"])


def test_what_another_check_of_the_test_catches_is_caught(run):
    result = run(
        """
    def test_both(equivalence):
        a, b, c = equivalence.forms(spec)
        equivalence.assert_equivalent(a, c, experiments=["outputs"])
        equivalence.assert_equivalent(a, c)
    """,
        "--equivalence-faults",
    )
    result.assert_outcomes(passed=1)


def test_workers_send_their_checks_to_the_controller(pytester, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    pytester.makepyfile(HEAD + PASSES + FAILS)
    marker = "@pytest.mark.equivalence(mode='trian')"
    pytester.makepyfile(test_wrong=f"import pytest\n{marker}\ndef test_wrong(equivalence): pass\n")
    options = ("-p", "no:cacheprovider", "--equivalence-report", "r.json")
    result = pytester.runpytest_subprocess("-n", "2", *options)
    result.assert_outcomes(passed=1, failed=1, errors=1)
    result.stdout.fnmatch_lines(
        ["EQUIVALENT*test_forms*", "DIFFERENT*test_other_weights*", "ERROR *mode (='trian') must be*"]
    )
    assert len(json.loads((pytester.path / "r.json").read_text())["results"]) == 2


def test_the_plugin_can_be_switched_off(run):
    result = run("    def test_nothing(): pass\n", "-p", "no:equivalence")
    result.assert_outcomes(passed=1)
    assert "no:equivalence" not in result.stderr.str()
    assert run(PASSES, "-p", "no:equivalence").parseoutcomes() == {"errors": 1}


def started(pytester, code):
    """What pytest prints of `sys.modules` when it has run one test file."""
    pytester.makepyfile(f"def test_it():\n    {code}\n")
    pytester.makeconftest(
        "import sys\n"
        "def pytest_unconfigure():\n"
        "    print('loaded:', *{'torch', 'numpy', 'equivalence.testing.plugin'} & set(sys.modules))"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=pytester.path)
    return set(done.stdout.split("loaded:")[1].split())


def test_a_run_that_compares_nothing_loads_no_torch(pytester):
    assert started(pytester, "pass") == {"equivalence.testing.plugin"}


def test_the_test_above_can_fail(pytester):
    assert "torch" in started(pytester, "from equivalence import Grouped")


def test_the_names_that_load_no_torch_are_those_of_the_package():
    from equivalence.blocks.forms import FORMS
    from equivalence.verdict.names import EXPERIMENTS

    assert tuple(FORMS) == FORM_NAMES
    assert tuple(EXPERIMENTS) == MODES
    assert all(getattr(torch, name).is_floating_point for name in DTYPES)


@pytest.mark.parametrize("options", [[], ["--equivalence-faults"]])
def test_the_test_file_in_the_readme_runs_as_it_stands(pytester, monkeypatch, options):
    """In a process of its own, where Hypothesis has the settings that users have."""
    monkeypatch.delenv("CI", raising=False)
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (example,) = re.findall(r"```python\n(import pytest\n.*?)```", readme, flags=re.DOTALL)
    pytester.makepyfile(example)
    result = pytester.runpytest_subprocess("-p", "no:xdist", "-p", "no:cacheprovider", *options)
    result.assert_outcomes(passed=2)
