"""What a command has to show: its results, and everything needed to run it again.

Guarantee: every format renders this one document, so no format says more or other things than
another. The verdict is that of the pairs whose weights were transferred or are as given; pairs of
independent weights are shown to differ, which is not held against the forms.
"""

from __future__ import annotations

import dataclasses
import platform
from typing import TYPE_CHECKING

import torch

import equivalence
from equivalence.verdict.verdict import Report, Verdict

if TYPE_CHECKING:
    from equivalence.blocks.spec import BlockSpec

SCHEMA_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Document:
    """A command's results.

    Attributes:
        command: the command line that replays it.
        seed: of everything that was drawn.
        spec: the block, where there is one.
        results: one `Report` for each pair.
        notes: lines to show between the results and the verdict.
        considered: what the verdict is of, where that is more than the results shown.
    """

    command: str
    seed: int
    spec: BlockSpec | None
    results: tuple[Report, ...]
    notes: tuple[str, ...] = ()
    considered: str = ""

    @property
    def verdict(self) -> Verdict:
        """The verdict on all pairs that were meant to be equivalent."""
        return Verdict.of_all(r.verdict for r in self.results if r.weights != "independent")


def environment() -> dict[str, str]:
    """The versions and the machine that figures depend on."""
    return {
        "equivalence": equivalence.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": str(torch.get_num_threads()),
    }
