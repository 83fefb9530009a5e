"""The notebook's story as a sheet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from equivalence.report.sheet import Section, Sheet
from equivalence.verdict.notebook import DEVIATIONS, PAIRS, SHAPE, SMALL
from equivalence.verdict.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from equivalence.verdict.notebook import Judged, Story

_MEANING = {
    "shared_branch": "one branch is applied C times",
    "inplace_identity": "A adds its branches into its own input",
    "norm_in_branches": "A has norm and ReLU inside every branch",
    "relu_before_add": "the last ReLU precedes the addition",
    "transform_bias": "the 3×3 convolutions have a bias",
}
_COLUMNS = ("deviation", "what it is", *(" / ".join(pair) for pair in PAIRS))


def notebook_sheet(story: Story, command: str, seed: int) -> Sheet:
    """Verdicts as published and after each change, and the least repair.

    Args:
        story: what was found.
        command: that replays it.
        seed: of everything drawn.
    """
    harmless = [name for name in DEVIATIONS if story.alone[name].equivalent]
    matter = [name for name in DEVIATIONS if name not in harmless]
    sections = (
        _section("As published", "published", {"all five": story.published}),
        _section("One deviation switched off", "without", story.without),
        _section("One deviation alone, all others off", "alone", story.alone),
    )
    verdict, reason = story.twin
    least = " or ".join(", ".join(off) for off in story.least) or "none found"
    remarks = (
        f"The structures are the notebook's with {SMALL.in_channels} channels, {SMALL.template}, on inputs {SHAPE}; "
        "one set of independent weights is given to all.",
        *(f"{' / '.join(pair)}: {why}" for pair, why in zip(PAIRS, story.published.reasons, strict=True)),
        f"matter: {', '.join(matter)}",
        f"do not matter: {', '.join(harmless)}",
        f"A with independent branches / its grouped twin: {verdict.name}, {reason}",
    )
    done = verdict is Verdict.EQUIVALENT and bool(story.least)
    conclusion = f"A, B and C are equivalent once these are switched off: {least}."
    return Sheet(command, seed, None, sections, remarks, conclusion, 0 if done else 2)


def _section(title: str, key: str, judged: Mapping[str, Judged]) -> Section:
    rows = tuple(
        (name, _MEANING.get(name, ""), *(verdict.name for verdict in one.verdicts)) for name, one in judged.items()
    )
    data = tuple(
        {
            "deviation": name,
            "on": list(one.on),
            "pairs": [
                {"left": left, "right": right, "verdict": verdict, "reason": reason}
                for (left, right), verdict, reason in zip(PAIRS, one.verdicts, one.reasons, strict=True)
            ],
        }
        for name, one in judged.items()
    )
    return Section(title, key, _COLUMNS, rows, data)
