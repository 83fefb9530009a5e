"""A document as one HTML page, for a browser or a build's artefacts.

Guarantee: what a terminal shows, in its colours, with nothing loaded from elsewhere.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from rich.console import Console

from equivalence.report.text import WIDTH_OF_NO_TERMINAL, parts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import RenderableType

    from equivalence.report.document import Document


def render(document: Document) -> str:
    """The document as a page."""
    return page(parts(document))


def page(shown: Iterable[RenderableType]) -> str:
    """What a terminal would show, as a page."""
    console = Console(record=True, file=io.StringIO(), width=WIDTH_OF_NO_TERMINAL, highlight=False)
    for part in shown:
        console.print(part)
    text = console.export_html(inline_styles=True)
    # rich fills every line up to the console's edge.
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
