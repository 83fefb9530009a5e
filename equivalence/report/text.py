"""A document for a person at a terminal.

Guarantee: aligned, coloured where there is a terminal that wants it (NO_COLOR and FORCE_COLOR are
honoured), never cut where there is none, and the verdict is the last line.
"""

from __future__ import annotations

import io
import itertools
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Column
from rich.text import Text

from equivalence.report.document import environment
from equivalence.report.fitted import Fitted
from equivalence.verdict.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from equivalence.arithmetic.difference import Quantity
    from equivalence.arithmetic.floating import Comparison
    from equivalence.blocks.spec import BlockSpec
    from equivalence.report.document import Document
    from equivalence.verdict.verdict import Report

STYLES = {
    Verdict.EQUIVALENT: "bold green",
    Verdict.DIFFERENT: "bold red",
    Verdict.UNDECIDED: "bold yellow",
}
_HOLDS = {True: ("✓", "green"), False: ("✗", "red"), None: ("–", "dim")}
WIDTH_OF_NO_TERMINAL = 10_000


def render(document: Document) -> str:
    """The whole document without colours, for files and pipes."""
    return rendered(*parts(document))


def rendered(*items: RenderableType) -> str:
    """What the parts look like on paper that has no edge."""
    paper = Console(file=io.StringIO(), width=WIDTH_OF_NO_TERMINAL, color_system=None)
    with paper.capture() as capture:
        paper.print(*items, sep="\n")
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


def parts(document: Document) -> list[RenderableType]:
    """Heading, one table of figures for each kind of weights, notes, the verdict last."""
    around = environment()
    heading = Text(described(document.spec), style="bold") if document.spec else Text()
    run = f"seed {document.seed} · torch {around['torch']} · python {around['python']}"
    blocks: list[RenderableType] = [heading, Text(run, style="dim")]
    for title, results in sections(document):
        blocks += [Text(), Text(title, style="bold underline")]
        blocks.append(figures((pair_name(r), r.quantities) for r in results))
        blocks += [conclusion(result) for result in results]
    blocks += [Text(), *(Text(note) for note in document.notes)]
    if document.verdict is not Verdict.EQUIVALENT:
        blocks.append(Text(f"again: {document.command}"))
    blocks.append(_said(document.verdict, considered(document)))
    return blocks


def sections(document: Document) -> Iterator[tuple[str, list[Report]]]:
    """Results of one kind of weights, mode and dtype together, under their title."""
    alike = itertools.groupby(document.results, key=lambda r: (r.weights, r.mode, r.dtype))
    for (weights, mode, dtype), group in alike:
        yield f"Weights {weights}, {mode}, {dtype}", list(group)


def pair(report: Report) -> RenderableType:
    """One report: figures, evidence, the verdict last."""
    return Group(figures([(pair_name(report), report.quantities)]), conclusion(report))


def conclusion(report: Report) -> RenderableType:
    """A pair's verdict and reason, and below it what each arithmetic showed."""
    lines = [Text.assemble(f"{pair_name(report)}: ", _said(report.verdict, report.reason))]
    for evidence in report.evidence:
        mark, style = _HOLDS[evidence.holds]
        where = f"{evidence.arithmetic}, {evidence.experiment}: "
        lines.append(Text.assemble("  ", (mark, style), f" {where}{evidence.statement}"))
    lines += [Text(f"  {line}") for line in report.place.lines] if report.place else []
    return Group(*lines)


def comparison(compared: Comparison) -> str:
    """A bare comparison as a table."""
    return rendered(figures([("", compared.quantities)]))


def figures(pairs: Iterable[tuple[str, Sequence[Quantity]]], lines: box.Box = box.SIMPLE_HEAD) -> RenderableType:
    """The table people look at: a row for each quantity of each pair."""
    numbers = ("max-abs-diff", "max-rel-diff", "max-ulp", "rms", "differing")
    columns = (
        Column("pair", no_wrap=True),
        Column("quantity", no_wrap=True),
        *(Column(name, justify="right", no_wrap=True) for name in numbers),
        Column(_WHERE, no_wrap=True),
    )
    groups = [
        [(name if i == 0 else "", quantity.name, *_cells(quantity)) for i, quantity in enumerate(quantities)]
        for name, quantities in pairs
    ]
    return Fitted(columns, groups, ("rms", "max-rel-diff", _WHERE, "max-ulp"), lines)


_WHERE = "where the greatest is"


def _cells(q: Quantity) -> list[str]:
    if q.problem is not None:
        return ["–"] * 5 + [q.problem]
    ulp = "–" if q.max_ulp_diff is None else f"{q.max_ulp_diff:,}"
    place = "" if q.equal else f"{list(q.index)}: {q.left:.9g} / {q.right:.9g}"
    if any(q.non_finite):
        place += f"  NaN or infinite: {q.non_finite[0]:,} / {q.non_finite[1]:,}"
    return [
        f"{q.max_abs_diff:.3g}",
        f"{q.max_rel_diff:.3g}",
        ulp,
        f"{q.rms:.3g}",
        f"{q.differing:,} of {q.compared:,}",
        place,
    ]


def described(spec: BlockSpec) -> str:
    """The block in one line."""
    kernel = "×".join([str(spec.kernel_size)] * spec.spatial_dims)
    said = [
        f"{spec.in_channels} → {spec.out_channels} channels",
        spec.template,
        f"kernel {kernel}",
        *([f"stride {spec.stride}"] if spec.stride > 1 else []),
        *([f"dilation {spec.dilation}"] if spec.dilation > 1 else []),
        f"norm {spec.norm}",
        *([f"norm groups {spec.norm_groups}/{spec.output_norm_groups}"] if spec.norm == "group" else []),
        spec.activation,
        f"shortcut {spec.shortcut}",
    ]
    return "ResNeXt block: " + ", ".join(said)


def pair_name(report: Report) -> str:
    """Both sides of a pair."""
    return f"{report.left} / {report.right}"


def _said(verdict: Verdict, reason: str) -> Text:
    return Text.assemble((verdict.name, STYLES[verdict]), f" ({reason})")


def considered(document: Document) -> str:
    """What the document's verdict is of."""
    if document.considered:
        return document.considered
    meant = [r for r in document.results if r.weights != "independent"]
    agreed = sum(bool(r) for r in meant)
    return f"{agreed} of {len(meant)} pairs equivalent"
