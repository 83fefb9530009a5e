"""A property-based campaign: random blocks are checked, and the worst one is kept.

Guarantee: the same seed runs the same campaign. Every case that is shown comes with the command
and with the `@example` that run it again, and a failing one is the smallest that was found of its
verdict. Nothing is left in the user's folder: neither an example database nor a cache.
"""

from __future__ import annotations

import dataclasses
import shlex
import tempfile
from typing import TYPE_CHECKING

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity, given, settings, target
from hypothesis.configuration import set_hypothesis_home_dir

from equivalence.report.document import Document
from equivalence.verdict.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypothesis.strategies import SearchStrategy

    from equivalence.testing.case import Case
    from equivalence.verdict.verdict import Report

_PHASES = (Phase.generate, Phase.target, Phase.shrink)


class _Failing(Exception):
    """A case that is not equivalent."""


# Hypothesis shrinks each kind of error by itself.
class _Different(_Failing):
    pass


class _Undecided(_Failing):
    pass


_ERRORS: dict[Verdict, type[_Failing]] = {Verdict.DIFFERENT: _Different, Verdict.UNDECIDED: _Undecided}


@dataclasses.dataclass
class Campaign:
    """What a campaign saw.

    Attributes:
        verdicts: of each case that was drawn.
        worst: the case whose difference took up the greatest part of what rounding allows.
        failures: the smallest case of each other verdict than equivalent.
    """

    verdicts: dict[Case, Verdict] = dataclasses.field(default_factory=dict)
    worst: tuple[Case, Report] | None = None
    failures: dict[Verdict, tuple[Case, Report]] = dataclasses.field(default_factory=dict)

    def take(self, case: Case, report: Report) -> None:
        """Remember a case; the last failing one that Hypothesis runs is the smallest."""
        self.verdicts[case] = report.verdict
        if not report:
            self.failures[report.verdict] = (case, report)
        elif self.worst is None or _fraction(report) > _fraction(self.worst[1]):
            self.worst = (case, report)

    def document(self, command: str, seed: int) -> Document:
        """The campaign as a command shows it: failures first, then the worst of the rest."""
        shown = [self.failures[verdict] for verdict in _ERRORS if verdict in self.failures]
        shown += [self.worst] if self.worst else []
        equivalent = list(self.verdicts.values()).count(Verdict.EQUIVALENT)
        return Document(
            command,
            seed,
            None,
            tuple(_brief(report) for _, report in shown),
            tuple(_told(case, report, seed) for case, report in shown),
            considered=f"{equivalent} of {len(self.verdicts)} cases equivalent",
        )


def search(
    cases: SearchStrategy[Case], *, examples: int, seed: int = 0, step: Callable[[Campaign], None] | None = None
) -> Campaign:
    """Check drawn cases, and shrink those that fail.

    >>> from equivalence import BlockSpec
    >>> from equivalence.testing.strategies import cases
    >>> spec = BlockSpec(in_channels=2, cardinality=2, width=1, kernel_size=1, spatial_dims=1)
    >>> campaign = search(cases(spec, modes=["eval"]), examples=2)
    >>> campaign.document("a doctest", 0).verdict.name
    'EQUIVALENT'

    Args:
        cases: what is drawn.
        examples: how many, before those that shrinking takes.
        seed: of the campaign.
        step: called after each case.
    """
    campaign = Campaign()

    @hypothesis.seed(seed)
    @settings(
        max_examples=examples,
        phases=_PHASES,
        database=None,
        deadline=None,
        verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def each(case: Case) -> None:
        report = case.check()
        campaign.take(case, report)
        if step is not None:
            step(campaign)
        target(max(_fraction(report), 0.0), label="part of what rounding allows")
        if not report:
            raise _ERRORS[report.verdict](report.headline)

    with tempfile.TemporaryDirectory() as home:
        set_hypothesis_home_dir(home)
        try:
            each()
        except* _Failing:
            pass  # the campaign remembers
        finally:
            set_hypothesis_home_dir(None)
    return campaign


def _fraction(report: Report) -> float:
    """The part of what rounding allows, below every other where no bound is known."""
    return -1.0 if report.bound_fraction is None else report.bound_fraction


def _brief(report: Report) -> Report:
    """The report without the quantities that do not differ, but for the output."""
    kept = tuple(q for q in report.quantities if q.name == "output" or not q.equal)
    return dataclasses.replace(report, quantities=kept)


def _told(case: Case, report: Report, seed: int) -> str:
    """A case with what replays it."""
    if report:
        known = report.bound_fraction is not None
        head = f"worst case: {report.bound_fraction:.2g} of what rounding allows" if known else "a case"
    else:
        head = f"smallest case that is {report.verdict.name}"
    return f"{head}\n  replay: {replay(case, seed)}\n  @example(case={case!r})"


def replay(case: Case, seed: int) -> str:
    """The command that checks one case again.

    >>> from equivalence import BlockSpec
    >>> from equivalence.testing.case import Case
    >>> replay(Case(BlockSpec(in_channels=8, cardinality=2, width=3), "per-branch", "grouped"), 0)
    'equivalence search --examples 1 --seed 0 --weights-seed 0 --left per-branch --right grouped ...'

    Args:
        case: the case.
        seed: of the campaign.
    """
    options: dict[str, object] = {"examples": 1, "seed": seed, "weights_seed": case.seed}
    options |= {"left": case.left, "right": case.right, "mode": case.mode, "dtype": case.dtype}
    options |= case.spec.to_dict()
    words = ["equivalence", "search"]
    for name, value in options.items():
        values = value if isinstance(value, list) else [value]
        words += [f"--{name.replace('_', '-')}", *(str(v).lower() if isinstance(v, bool) else str(v) for v in values)]
    return shlex.join("none" if word == "None" else word for word in words)
