"""What the plugin remembers of each check, as plain data.

Guarantee: a record survives the way from an xdist worker to its controller, and the report that is
made of it there is the report that the check gave.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from equivalence.report.document import Document
    from equivalence.verdict.locate.place import Place
    from equivalence.verdict.verdict import Report

# The worst first.
RANKING = ("different", "undecided", "equivalent")


def recorded(test: str, number: int, report: Report) -> dict[str, Any]:
    """One check as plain data.

    Args:
        test: the id of the test.
        number: of the check in the test, from 1.
        report: what the check gave.
    """
    return {
        "test": test,
        "number": number,
        "headline": report.headline,
        "bound_fraction": report.bound_fraction,
        "report": dataclasses.asdict(report) | {"verdict": report.verdict.value},
        "caught": None,
    }


def report_of(record: dict[str, Any]) -> Report:
    """The report that was recorded."""
    from equivalence.arithmetic.difference import Quantity
    from equivalence.verdict.verdict import Evidence, Report, Verdict

    fields = record["report"]
    quantities = ({**q, "index": tuple(q["index"]), "non_finite": tuple(q["non_finite"])} for q in fields["quantities"])
    return Report(
        **{
            **fields,
            "verdict": Verdict(fields["verdict"]),
            "quantities": tuple(Quantity(**q) for q in quantities),
            "evidence": tuple(Evidence(**e) for e in fields["evidence"]),
            "place": _place_of(fields["place"]),
        }
    )


def _place_of(fields: dict[str, Any] | None) -> Place | None:
    from equivalence.verdict.locate.place import Place, Scalar

    if fields is None:
        return None
    scalar = fields["scalar"] and Scalar(**{**fields["scalar"], "tap": tuple(fields["scalar"]["tap"])})
    return Place(**{**fields, "scalar": scalar, "settings": tuple(fields["settings"])})


def document(records: Iterable[dict[str, Any]], command: str, seed: int) -> Document:
    """All checks of a test run as a document, in an order that no scheduling changes."""
    from equivalence.report.document import Document

    ordered = sorted(records, key=lambda record: (record["test"], record["number"]))
    notes = tuple(f"{record['test']}, check {record['number']}: {record['headline']}" for record in ordered)
    return Document(command, seed, None, tuple(map(report_of, ordered)), notes)


def summary(records: Iterable[dict[str, Any]]) -> Iterator[str]:
    """The worst figures of each test's pairs, as an aligned table."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for record in sorted(records, key=lambda record: (record["test"], record["number"])):
        report = record["report"]
        pair = f"{report['left']} / {report['right']}"
        groups.setdefault((record["test"].partition("[")[0], pair), []).append(record)
    rows: list[tuple[str, ...]] = [("verdict", "max-abs-diff", "of bound", "caught", "checks", "test: pair")]
    rows += [_row(group) for group in groups.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for verdict, *figures, name in rows:
        aligned = (text.rjust(width) for text, width in zip(figures, widths[1:-1], strict=True))
        yield "  ".join([verdict.ljust(widths[0]), *aligned, name])


def _row(group: tuple[tuple[str, str], list[dict[str, Any]]]) -> tuple[str, ...]:
    (test, pair), records = group
    reports = [record["report"] for record in records]
    outputs = [q for report in reports for q in report["quantities"] if q["name"] == "output"]
    fractions = [r["bound_fraction"] for r in records if r["bound_fraction"] is not None]
    caught = [record["caught"] for record in records if record["caught"] is not None]
    return (
        min((report["verdict"] for report in reports), key=RANKING.index).upper(),
        f"{max((q['max_abs_diff'] for q in outputs), default=0.0):.3g}",
        f"{max(fractions):.2g}" if fractions else "–",
        "{} of {}".format(*caught[-1]) if caught else "–",
        str(len(records)),
        f"{test}: {pair}",
    )
