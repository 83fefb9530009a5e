"""The kill table as a sheet."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from equivalence.report.sheet import Section, Sheet

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from equivalence.blocks.spec import BlockSpec
    from equivalence.verdict.faults.kill import Trial

_SAYS = {True: "same", False: "different"}


def kill_sheet(trials: Sequence[Trial], spec: BlockSpec, command: str, seed: int) -> Sheet:
    """The kill table, its totals last.

    Args:
        trials: one for each fault and form.
        spec: the block.
        command: that replays it.
        seed: of everything drawn.
    """
    tools = list(dict.fromkeys(name for trial in trials for name in trial.tools))
    harmful = [t for t in trials if t.group != "harmless"]
    harmless = [t for t in trials if t.group == "harmless"]
    sections = tuple(
        Section(
            title,
            key,
            (*_COLUMNS, *tools),
            tuple(_row(t, tools) for t in some),
            tuple(map(_data, some)),
            (*reversed(tools), "seconds"),
        )
        for title, key, some in (("Faults", "faults", harmful), ("Harmless changes", "harmless", harmless))
        if some
    )
    remarks = [_blind(tool, harmful, harmless) for tool in tools]
    remarks += _reasons(trials)
    return Sheet(command, seed, spec, sections, tuple(remarks), _conclusion(harmful, harmless), _status(trials))


_COLUMNS = ("fault", "form", "outcome", "caught by", "where", "seconds")


def _row(trial: Trial, tools: Iterable[str]) -> tuple[str, ...]:
    applies = trial.outcome != "not applicable"
    says = [_SAYS[trial.tools[tool]] if tool in trial.tools else "–" for tool in tools]
    seconds = f"{trial.seconds:.2f}" if applies else ""
    return (trial.fault, trial.form, trial.outcome, trial.evidence, trial.stage, seconds, *says)


def _data(trial: Trial) -> dict[str, object]:
    return dataclasses.asdict(trial)


def _blind(tool: str, harmful: Iterable[Trial], harmless: Iterable[Trial]) -> str:
    planted = [t.tools[tool] for t in harmful if tool in t.tools]
    correct = [not t.tools[tool] for t in harmless if tool in t.tools]
    return (
        f"{tool} passes {sum(planted)} of {len(planted)} faults"
        f" and calls {sum(correct)} of {len(correct)} harmless changes different"
    )


def _reasons(trials: Iterable[Trial]) -> list[str]:
    """Why what does not apply does not, once for each reason."""
    forms: dict[tuple[str, str], list[str]] = {}
    for trial in trials:
        if trial.outcome == "not applicable":
            forms.setdefault((trial.fault, trial.statement), []).append(trial.form)
    return [f"{fault} does not apply ({', '.join(of)}): {reason}" for (fault, reason), of in forms.items()]


def _status(trials: Sequence[Trial]) -> int:
    """1 if the check was blind or cried wolf, 2 if nothing was planted."""
    if any(trial.failed for trial in trials):
        return 1
    return 0 if any(trial.outcome != "not applicable" for trial in trials) else 2


def _conclusion(harmful: Sequence[Trial], harmless: Sequence[Trial]) -> str:
    said = []
    if tried := [t for t in harmful if t.outcome != "not applicable"]:
        survivors = sorted({f"{t.fault} in {t.form}" for t in tried if t.failed})
        said.append(f"{len(tried) - len(survivors)} of {len(tried)} planted faults killed")
        said += [f"SURVIVED: {', '.join(survivors)}"] if survivors else []
    if tried := [t for t in harmless if t.outcome != "not applicable"]:
        wrong = sorted({f"{t.fault} in {t.form}" for t in tried if t.failed})
        said.append(f"{len(wrong)} of {len(tried)} harmless changes called different")
        said += [f"WRONGLY: {', '.join(wrong)}"] if wrong else []
    return ("; ".join(said) or "nothing was planted: no fault applies to this block") + "."
