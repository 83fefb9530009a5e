"""A table that fits its terminal by leaving columns out, never by cutting what they say.

Guarantee: what is left out is named below the table; where there is room, and wherever there is no
terminal, all columns are there.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from rich import box
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console, ConsoleOptions, RenderResult

_ENOUGH = 10_000


@dataclasses.dataclass(frozen=True)
class Fitted:
    """Rows in groups, under columns of which some can be missed.

    >>> from equivalence.report.text import rendered
    >>> print(rendered(Fitted((Column("form"), Column("ms")), [[("grouped", "3.1")]])).strip())
    form      ms
    ───────────────
     grouped   3.1

    Attributes:
        columns: their headings and how they are set.
        groups: rows that belong together; cells are text without markup.
        dispensable: headings in the order in which they are left out.
        lines: what the table is drawn with.
    """

    columns: tuple[Column, ...]
    groups: Sequence[Sequence[Sequence[str]]]
    dispensable: tuple[str, ...] = ()
    lines: box.Box = box.SIMPLE_HEAD

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The widest table that fits, and what it lacks."""
        boundless, lacking = options.update(max_width=_ENOUGH), self.dispensable[:0]
        table = self._table(lacking, folded=False)
        for count in range(len(self.dispensable) + 1):
            if Measurement.get(console, boundless, table).maximum <= options.max_width:
                break
            lacking = self.dispensable[:count]
            table = self._table(lacking, folded=True)
        yield table
        if lacking:
            yield Text(f" a wider terminal, or a pipe, shows {', '.join(sorted(lacking))} too", style="dim")

    def _table(self, lacking: Sequence[str], *, folded: bool) -> Table:
        """Without these columns; both sides of a pair on lines of their own if it is folded."""
        shown = [i for i, column in enumerate(self.columns) if column.header not in lacking]
        columns = (dataclasses.replace(self.columns[i], _cells=[]) for i in shown)
        table = Table(*columns, box=self.lines, show_edge=self.lines is box.MARKDOWN)
        for group in self.groups:
            for row in group:
                table.add_row(*(Text(row[i].replace(" / ", " /\n") if folded and not i else row[i]) for i in shown))
            table.add_section()
        return table
