"""The pytest plugin: fixture, marker, options, and a section in the summary.

Guarantee: no test run pays for torch unless a test of it compares modules. A comparison is never
silently off: a test that asks for the fixture and compares nothing fails. Records travel with the
reports of tests, so that figures are the same with and without xdist, also if a worker dies.
"""

from __future__ import annotations

import inspect
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

    from equivalence.testing.fixture import Equivalence, RunningTest

_FORMATS = {".json": "json", ".md": "markdown", ".txt": "text", ".html": "html"}
_SHOWN = 30


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options `--equivalence-…`."""
    group = parser.getgroup("equivalence", "whether two modules are the same function")
    group.addoption(
        "--equivalence-seed", type=int, default=0, metavar="N", help="Of every check that names none (default: 0)."
    )
    group.addoption(
        "--equivalence-report",
        type=Path,
        metavar="FILE",
        help=f"Write all checks there; the format is that of the suffix: {', '.join(_FORMATS)}.",
    )
    group.addoption(
        "--equivalence-faults",
        action="store_true",
        help="Repeat each passed check with faults planted in the right side; fail tests that are blind to one.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Validate the options and listen to this run's tests."""
    from equivalence.testing.marker import LINE

    config.addinivalue_line("markers", LINE)
    if config.option.equivalence_seed < 0:
        raise pytest.UsageError(f"--equivalence-seed (={config.option.equivalence_seed}) must be at least 0")
    if target := config.option.equivalence_report:
        _writable(target)
    config.pluginmanager.register(_Run(config), "equivalence-run")


def _writable(target: Path) -> None:
    """Say before the tests that their report will have nowhere to go."""
    if target.suffix not in _FORMATS:
        raise pytest.UsageError(f"--equivalence-report {target}: suffix must be one of {', '.join(_FORMATS)}")
    if not target.absolute().parent.is_dir():
        raise pytest.UsageError(f"--equivalence-report {target}: folder {target.parent} does not exist; create it")


# For the session, because Hypothesis rightly distrusts fixtures that are not made anew for each
# example; what belongs to a test is kept by `_Run`.
@pytest.fixture(scope="session", name="equivalence")
def _equivalence(request: pytest.FixtureRequest) -> Equivalence:
    """Checks whether modules are the same function: `.check`, `.assert_equivalent`, `.forms`."""
    from equivalence.testing.fixture import Equivalence

    run: Any = request.config.pluginmanager.get_plugin("equivalence-run")
    return Equivalence(run.running)


class _Run:
    """One run of pytest, in the controller or in a worker."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.test: RunningTest | None = None
        self.records: list[dict[str, Any]] = []

    def running(self) -> RunningTest:
        """The test that runs."""
        if self.test is None:
            raise pytest.UsageError("the fixture equivalence can only be used while a test runs")
        return self.test

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Refuse wrong markers before any test runs; in a worker, each test says it by itself."""
        if hasattr(self.config, "workerinput"):
            return
        for item in items:
            _settings(item, pytest.UsageError)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Know which test runs."""
        from equivalence.testing.fixture import RunningTest

        self.test = RunningTest(
            item.nodeid, {"seed": self.config.option.equivalence_seed}, self.config.option.equivalence_faults
        )
        try:
            return (yield)
        finally:
            self.test = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Take the settings of the test's markers."""
        self.running().settings |= _settings(item, _fail)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Fail a test that passed without a comparison, or blindly."""
        result = yield
        test = self.running()
        if not test.records and _asks_for_the_fixture(item):
            _fail("compared nothing: the test uses the fixture equivalence, but no check ran")
        if blind := test.blind_to:
            more = f" and {len(blind) - 1} more" if len(blind) > 1 else ""
            _fail(
                f"blind to {blind[0]!r}{more}: {len(blind)} of {len(test.caught)} faults planted in the right side "
                f"pass the test's checks\n" + "\n".join(f"  survives: {name}" for name in blind)
            )
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
        """Let the records travel with the last report of the test."""
        report = yield
        if call.when == "teardown" and self.test is not None and self.test.records:
            report.equivalence = self.test.records
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect what came, from here or from a worker."""
        self.records += getattr(report, "equivalence", ())

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """Write the report file, whole or not at all."""
        target: Path | None = self.config.option.equivalence_report
        if target is None or hasattr(self.config, "workerinput"):
            return
        from importlib import import_module

        from equivalence.testing.records import document

        command = shlex.join(["pytest", *map(str, self.config.invocation_params.args)])
        renderer = import_module(f"equivalence.report.{_FORMATS[target.suffix]}")
        draft = target.with_name(f".{target.name}.{os.getpid()}")
        draft.write_text(
            renderer.render(document(self.records, command, self.config.option.equivalence_seed)), encoding="utf-8"
        )
        draft.replace(target)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """The worst figures of each test's checks."""
        if not self.records:
            return
        from equivalence.testing.records import summary

        lines = list(summary(self.records))
        shown = lines if self.config.option.verbose > 0 else lines[: _SHOWN + 1]
        terminalreporter.section("equivalence")
        for line in shown:
            terminalreporter.write_line(line)
        if len(lines) > len(shown):
            terminalreporter.write_line(f"… and {len(lines) - len(shown)} more; all with -v")
        if self.config.option.equivalence_report:
            terminalreporter.write_line(f"report: {self.config.option.equivalence_report}")


def _settings(item: pytest.Item, fail: Any) -> dict[str, Any]:
    """What the test's markers say, if they say anything and it makes sense."""
    if item.get_closest_marker("equivalence") is None:
        return {}
    from equivalence.testing.marker import settings_of

    try:
        return settings_of(item)
    except ValueError as error:
        raise fail(f"{item.nodeid}: {error}") from None


def _fail(message: str) -> Any:
    __tracebackhide__ = True
    pytest.fail(f"equivalence: {message}", pytrace=False)


def _asks_for_the_fixture(item: pytest.Item) -> bool:
    """Whether the test itself asks, not a fixture of it that only builds forms."""
    used = {name for mark in item.iter_markers("usefixtures") for name in mark.args}
    function = getattr(item, "function", None)
    return "equivalence" in used or (function is not None and "equivalence" in inspect.signature(function).parameters)
