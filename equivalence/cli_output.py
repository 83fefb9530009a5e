"""Where results go: stdout or a file, in their format; progress goes to stderr.

Guarantee: a file is written whole or not at all, and that it cannot be written is said before the
work; colours, spinners and bars are for terminals only.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from typing import TYPE_CHECKING, Any

from typer.exceptions import TyperException

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from rich.console import RenderableType

    from equivalence.cli_options import FormatName
    from equivalence.report.document import Document
    from equivalence.report.sheet import Sheet


class UsageError(TyperException):
    """A user's mistake, said in one line."""


def show_document(document: Document, form: FormatName, output: Path | None, *, quiet: bool) -> None:
    """Write the document in its format, coloured if it goes to a terminal that wants it."""
    from equivalence.report import html, json, markdown, text

    if quiet:
        write(f"{document.verdict.name}\n", output)
    elif form == "text" and output is None:
        print_parts(text.parts(document))
    else:
        renderer = {"text": text, "json": json, "markdown": markdown, "html": html}[form]
        write(renderer.render(document), output)


def show_sheet(sheet: Sheet, form: FormatName, output: Path | None, *, quiet: bool) -> None:
    """Write the sheet in its format, coloured if it goes to a terminal that wants it."""
    if quiet:
        write(f"{sheet.conclusion}\n", output)
    elif form == "text" and output is None:
        print_parts(sheet.parts())
    else:
        render = {"text": sheet.text, "json": sheet.json, "markdown": sheet.markdown, "html": sheet.html}[form]
        write(render(), output)


def print_parts(parts: Iterable[RenderableType]) -> None:
    """To a terminal in its colours, or to a pipe without an edge."""
    from rich.console import Console

    from equivalence.report.text import WIDTH_OF_NO_TERMINAL

    console = Console(soft_wrap=False, highlight=False)
    if not console.is_terminal:
        console.width = WIDTH_OF_NO_TERMINAL
    for part in parts:
        console.print(part)


def write(content: str, output: Path | None) -> None:
    """To stdout, or whole into a file: beside it first, then renamed."""
    if output is None:
        sys.stdout.write(content)
        return
    draft = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        draft.write_text(content, encoding="utf-8")
        draft.replace(output)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise UsageError(f"cannot write {output}: {error.strerror}") from None


def writable(output: Path | None) -> None:
    """Say before the work that its result will have nowhere to go."""
    if output is None:
        return
    if not output.parent.is_dir():
        raise UsageError(f"--output {output}: folder {output.parent} does not exist; create it")
    if output.is_dir():
        raise UsageError(f"--output {output} is a folder; name a file")


def progress(what: str) -> Any:
    """A spinner on stderr, on a terminal only."""
    from rich.console import Console

    return Console(stderr=True).status(what)


@contextlib.contextmanager
def bar(what: str, total: int) -> Iterator[Callable[[object], None]]:
    """A progress bar on stderr, on a terminal only; full while a failing case is shrunk."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task(what, total=total)
        yield lambda _: shown.advance(task)


def replay() -> str:
    """The command that runs this again."""
    return shlex.join(["equivalence", *sys.argv[1:]])
