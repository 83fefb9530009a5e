"""A document as Markdown, for a pull request or an issue.

Guarantee: the same figures and statements as in the text, in tables that GitHub renders.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from rich import box

from equivalence.report import text
from equivalence.report.document import environment

if TYPE_CHECKING:
    from equivalence.report.document import Document
    from equivalence.verdict.verdict import Report


def render(document: Document) -> str:
    """The document as Markdown, the verdict last."""
    around = environment()
    lines = [f"# {text.described(document.spec)}" if document.spec else "# Equivalence", ""]
    lines += [f"`{document.command}`, torch {around['torch']}, python {around['python']}", ""]
    for title, results in text.sections(document):
        table = text.figures(((text.pair_name(r), r.quantities) for r in results), box.MARKDOWN)
        lines += [f"## {title}", "", text.rendered(table).strip("\n"), ""]
        lines += [line for result in results for line in _conclusion(result)] + [""]
    lines += [*itertools.chain.from_iterable((note, "") for note in document.notes)]
    return "\n".join([*lines, f"**{document.verdict.name}**: {text.considered(document)}", ""])


def _conclusion(report: Report) -> list[str]:
    head = f"- {text.pair_name(report)}: **{report.verdict.name}**, {report.reason}"
    marks = {True: "✓", False: "✗", None: "–"}
    return [
        head,
        *(f"    - {marks[e.holds]} {e.arithmetic}, {e.experiment}: {e.statement}" for e in report.evidence),
        *(f"    - {line}" for line in (report.place.lines if report.place else ())),
    ]
