"""The words in which a conclusion is said.

Guarantee: a `Report` is plain data and carries everything that its verdict rests on, so a reader
can judge the verdict without running anything again.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from equivalence.arithmetic.difference import Quantity
    from equivalence.arithmetic.floating import Mode
    from equivalence.verdict.locate.place import Place


class Verdict(enum.Enum):
    """Whether two modules are the same function."""

    EQUIVALENT = "equivalent"
    DIFFERENT = "different"
    UNDECIDED = "undecided"

    @property
    def exit_status(self) -> int:
        """0, 1 or 2, as a command line says it."""
        return list(Verdict).index(self)

    @classmethod
    def of_all(cls, verdicts: Iterable[Verdict]) -> Verdict:
        """One verdict for many: different outranks undecided, which outranks equivalent."""
        said = set(verdicts)
        ranking = (cls.DIFFERENT, cls.UNDECIDED, cls.EQUIVALENT)
        return next((verdict for verdict in ranking if verdict in said), cls.UNDECIDED)


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What one experiment in one arithmetic showed.

    Attributes:
        arithmetic: "floating", "rounding", "lattice" or "field".
        experiment: what was done to both modules, such as "outputs".
        holds: whether they agreed; None where the arithmetic does not apply.
        statement: what that means, with its figure.
        error_probability: exponent N of "wrong with a probability below 2^-N", where it has one.
        bound_fraction: greatest part of what rounding allows that a difference took up, where a
            bound is known; above 1 no rounding explains it.
    """

    arithmetic: str
    experiment: str
    holds: bool | None
    statement: str
    error_probability: float | None = None
    bound_fraction: float | None = None


@dataclasses.dataclass(frozen=True, repr=False)
class Report:
    """The verdict on one pair of modules, with everything that it rests on.

    Attributes:
        left, right: what the modules are called.
        weights: "independent", "transferred" or "as given".
        mode: "eval" or "train".
        dtype: of the modules, such as "float32".
        quantities: what floats show, one `Quantity` each, "output" first.
        evidence: what each arithmetic showed, one `Evidence` for each experiment.
        verdict: the conclusion.
        reason: why it is that, in one line.
        place: where the modules part, if they do.
    """

    left: str
    right: str
    weights: str
    mode: Mode
    dtype: str
    quantities: tuple[Quantity, ...]
    evidence: tuple[Evidence, ...]
    verdict: Verdict
    reason: str
    place: Place | None = None

    def __bool__(self) -> bool:
        return self.verdict is Verdict.EQUIVALENT

    @property
    def max_abs_diff(self) -> float:
        """Greatest difference of any output element in the modules' own floats, absolute."""
        return next(q.max_abs_diff for q in self.quantities if q.name == "output")

    @property
    def bound_fraction(self) -> float | None:
        """Greatest part of what rounding allows that a difference took up, where it is known."""
        known = (e.bound_fraction for e in self.evidence if e.bound_fraction is not None)
        return max(known, default=None)

    @property
    def headline(self) -> str:
        """The whole verdict in one line."""
        return f"{self.left} / {self.right}: {self.verdict.name}, {self.reason}"

    def __repr__(self) -> str:
        return f"<Report {self.headline}>"

    def __str__(self) -> str:
        from equivalence.report.text import pair, rendered  # printing alone looks upwards

        return rendered(pair(self))
