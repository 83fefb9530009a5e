"""A result that is no list of verdicts on pairs: titled tables, remarks, and a conclusion.

Guarantee: text, Markdown and JSON render this one document, so none says more or other things than another; the
conclusion is the last line. A table's rows are plain data, and in JSON they keep their types.
"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Column
from rich.text import Text

from equivalence.report.document import SCHEMA_VERSION, environment
from equivalence.report.fitted import Fitted
from equivalence.report.html import page
from equivalence.report.json import strict
from equivalence.report.text import described, rendered

if TYPE_CHECKING:
    from rich.console import RenderableType

    from equivalence.blocks.spec import BlockSpec


@dataclasses.dataclass(frozen=True)
class Section:
    """One table.

    Attributes:
        title: what it shows.
        key: what it is called in JSON.
        columns: their headings.
        rows: cells as text, one row each.
        data: the same rows as plain data, for JSON.
        dispensable: headings in the order in which a narrow terminal misses them.
    """

    title: str
    key: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    data: tuple[dict[str, Any], ...]
    dispensable: tuple[str, ...] = ()

    def table(self, lines: box.Box = box.SIMPLE_HEAD) -> Fitted:
        """The table, drawn with these lines."""
        columns = tuple(Column(name, no_wrap=name == self.columns[0]) for name in self.columns)
        return Fitted(columns, [self.rows], self.dispensable, lines)


@dataclasses.dataclass(frozen=True)
class Sheet:
    """A command's result.

    Attributes:
        command: the command line that replays it.
        seed: of everything that was drawn.
        spec: the block, where there is one.
        sections: its tables.
        remarks: sentences below them.
        conclusion: the last line.
        exit_status: of the command.
    """

    command: str
    seed: int
    spec: BlockSpec | None
    sections: tuple[Section, ...]
    remarks: tuple[str, ...]
    conclusion: str
    exit_status: int

    def text(self) -> str:
        """Without colours, for files and pipes."""
        return rendered(*self.parts())

    def parts(self) -> list[RenderableType]:
        """For a person at a terminal."""
        around = environment()
        parts: list[RenderableType] = [Text(described(self.spec), style="bold")] if self.spec else []
        parts.append(Text(f"seed {self.seed} · torch {around['torch']} · python {around['python']}", style="dim"))
        for section in self.sections:
            parts += [Text(), Text(section.title, style="bold underline"), section.table()]
        parts += [Text(), *(Text(remark) for remark in self.remarks)]
        parts.append(Text(self.conclusion, style="bold red" if self.exit_status else "bold green"))
        return parts

    def html(self) -> str:
        """For a browser."""
        return page(self.parts())

    def markdown(self) -> str:
        """For a pull request or an issue."""
        around = environment()
        lines = [f"# {described(self.spec)}" if self.spec else "# Equivalence", ""]
        lines += [f"`{self.command}`, torch {around['torch']}, python {around['python']}", ""]
        for section in self.sections:
            lines += [f"## {section.title}", "", rendered(section.table(box.MARKDOWN)).strip("\n"), ""]
        lines += [line for remark in self.remarks for line in (remark, "")]
        return "\n".join([*lines, f"**{self.conclusion}**", ""])

    def json(self) -> str:
        """For programs."""
        around = environment()
        fields = {
            "schema_version": SCHEMA_VERSION,
            "version": around["equivalence"],
            "command": self.command,
            "seed": self.seed,
            "environment": around,
            "spec": self.spec.to_dict() if self.spec else None,
            **{section.key: section.data for section in self.sections},
            "notes": self.remarks,
            "conclusion": self.conclusion,
        }
        return json.dumps(strict(fields), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
