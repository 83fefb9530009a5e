"""For other people's tests: `assert_equivalent`, Hypothesis strategies, and a pytest plugin.

Guarantee: importing this package imports neither torch nor Hypothesis nor pytest, because pytest
imports it at every start, whether or not a test compares anything.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from equivalence.testing import strategies as strategies
    from equivalence.verdict.check import assert_equivalent as assert_equivalent

__all__ = ["assert_equivalent", "strategies"]


def __getattr__(name: str) -> Any:
    if name == "assert_equivalent":
        return import_module("equivalence.verdict.check").assert_equivalent
    if name == "strategies":
        return import_module("equivalence.testing.strategies")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
