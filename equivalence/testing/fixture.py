"""What a test has in its hands: the fixture `equivalence`.

Guarantee: every check is remembered for the summary and the report file, and what a check was not
told comes from the test's marker, then from the command line.
"""

from __future__ import annotations

import copy
import dataclasses
import shlex
from typing import TYPE_CHECKING, Any

from equivalence.testing.records import recorded

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from equivalence.blocks.forms import Block
    from equivalence.blocks.spec import BlockSpec
    from equivalence.verdict.verdict import Report


@dataclasses.dataclass
class RunningTest:
    """What is known of the test that runs.

    Attributes:
        name: its id.
        settings: what its marker and the command line say.
        faults: whether each passed check is repeated with faults.
        records: one for each check.
        caught: for each fault planted, whether a check caught it.
    """

    name: str
    settings: dict[str, Any]
    faults: bool
    records: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    caught: dict[str, bool] = dataclasses.field(default_factory=dict)

    @property
    def replay(self) -> str:
        """The command that runs the test again."""
        return shlex.join(["pytest", self.name, "--equivalence-seed", str(self.settings["seed"])])

    @property
    def blind_to(self) -> list[str]:
        """The faults that no check of the test caught."""
        return [name for name, caught in self.caught.items() if not caught]


class Equivalence:
    """Checks of modules inside a test.

    Args:
        running: tells which test runs.
    """

    def __init__(self, running: Callable[[], RunningTest]) -> None:
        self._running = running

    def check(self, left: nn.Module, right: nn.Module, *, dtype: str | None = None, **options: Any) -> Report:
        """`equivalence.check`, remembered.

        Args:
            left, right: any two modules; they are left as they were found.
            dtype: to which copies of both are cast before; by default they are taken as they are.
            options: as for `equivalence.check`.

        Returns:
            the report; its truth value is that of EQUIVALENT.
        """
        __tracebackhide__ = True
        from equivalence.verdict.check import check

        test = self._running()
        settings = {**test.settings, **({} if dtype is None else {"dtype": dtype}), **options}
        left, right = (_cast(module, settings.get("dtype")) for module in (left, right))
        options = {name: value for name, value in settings.items() if name != "dtype"}
        report = check(left, right, **options)
        record = recorded(test.name, len(test.records) + 1, report)
        test.records.append(record)
        if test.faults and report:
            _plant(test, record, left, right, options)
        return report

    def assert_equivalent(self, left: nn.Module, right: nn.Module, *, dtype: str | None = None, **options: Any) -> None:
        """Fail unless `check` says EQUIVALENT; the first line of the failure is the whole verdict.

        Args:
            left, right, dtype, options: as for `check`.

        Raises:
            AssertionError: with the verdict in its first line and the full report below.
        """
        __tracebackhide__ = True
        report = self.check(left, right, dtype=dtype, **options)
        if not report:
            raise AssertionError(f"{report.headline}\n{report}again: {self._running().replay}")

    def forms(self, spec: BlockSpec) -> tuple[Block, Block, Block]:
        """Per-branch, concatenated and grouped form of a block, with one set of weights.

        Args:
            spec: the block.
        """
        from equivalence.testing.build import transferred

        settings = self._running().settings
        return transferred(spec, settings["seed"], settings.get("dtype") or "float32")


def _cast(module: Any, dtype: str | None) -> Any:
    """A copy in the dtype, if one is asked for."""
    if dtype is None or not hasattr(module, "parameters"):
        return module  # what is no module is refused by the check itself
    import torch

    return copy.deepcopy(module).to(getattr(torch, dtype))


def _plant(
    test: RunningTest, record: dict[str, Any], left: nn.Module, right: nn.Module, options: dict[str, Any]
) -> None:
    from equivalence.testing.blindness import verdicts_with_faults

    known = [name for name, caught in test.caught.items() if caught]  # by an earlier check of the test: that is enough
    test.caught |= verdicts_with_faults(left, right, options, known)
    record["caught"] = (sum(test.caught.values()), len(test.caught))
