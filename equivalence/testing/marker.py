"""What `@pytest.mark.equivalence(...)` may say.

Guarantee: a marker that could be misread is refused with its value and the rule; nothing in it is
ever ignored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from equivalence.testing.names import DTYPES, MODES
from equivalence.verdict.names import chosen

if TYPE_CHECKING:
    import pytest

LINE = (
    "equivalence(mode='eval', dtype=None, seed=0, experiments=None): how the fixture `equivalence` "
    "checks in this test; arguments of a single check win over the marker's."
)
_ARGUMENTS = ("mode", "dtype", "seed", "experiments")


def settings_of(item: pytest.Item) -> dict[str, Any]:
    """What the markers of a test say together, the closest one winning.

    Raises:
        ValueError: naming the argument, its value and the rule.
    """
    settings: dict[str, Any] = {}
    for mark in item.iter_markers("equivalence"):
        if mark.args:
            raise ValueError(f"marker equivalence: takes no positional arguments, not {mark.args!r}; name them")
        if unknown := sorted(mark.kwargs.keys() - set(_ARGUMENTS)):
            raise ValueError(f"marker equivalence: unknown argument {unknown[0]!r}; there are {', '.join(_ARGUMENTS)}")
        settings = {**mark.kwargs, **settings}
    _validate(settings)
    return settings


def _validate(settings: dict[str, Any]) -> None:
    mode, dtype, seed = settings.get("mode", "eval"), settings.get("dtype"), settings.get("seed", 0)
    _demand("mode", mode, mode in MODES, f"must be one of {', '.join(MODES)}")
    _demand("dtype", dtype, dtype is None or dtype in DTYPES, f"must be one of {', '.join(DTYPES)}")
    _demand("seed", seed, type(seed) is int and seed >= 0, "must be an integer of at least 0")
    # Without a mode of its own, the marker may belong to a test whose checks choose theirs.
    modes = (mode,) if "mode" in settings else MODES
    problems = [_experiments_problem(settings, mode) for mode in modes]
    if all(problems):
        raise ValueError(f"marker equivalence: {problems[0]}")


def _experiments_problem(settings: dict[str, Any], mode: str) -> str | None:
    """What is wrong with the experiments in a mode."""
    try:
        chosen(settings.get("experiments"), mode)
    except ValueError as error:
        return str(error)
    return None


def _demand(name: str, value: object, holds: bool, rule: str) -> None:
    if not holds:
        raise ValueError(f"marker equivalence: {name} (={value!r}) {rule}")
