"""Says whether two network blocks are the same function, and how it knows.

Importing this package imports no torch: every public name is loaded on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from equivalence.arithmetic.floating import compare as compare
    from equivalence.blocks.forms import Concatenated as Concatenated
    from equivalence.blocks.forms import Grouped as Grouped
    from equivalence.blocks.forms import PerBranch as PerBranch
    from equivalence.blocks.recognize import RecognitionError as RecognitionError
    from equivalence.blocks.recognize import recognize as recognize
    from equivalence.blocks.spec import BlockSpec as BlockSpec
    from equivalence.blocks.spec import SpecError as SpecError
    from equivalence.verdict.check import assert_equivalent as assert_equivalent
    from equivalence.verdict.check import check as check
    from equivalence.verdict.locate.find import locate as locate
    from equivalence.verdict.prove import prove as prove
    from equivalence.verdict.verdict import Report as Report
    from equivalence.verdict.verdict import Verdict as Verdict
    from equivalence.weights.convert import convert as convert
    from equivalence.weights.transfer import TransferError as TransferError
    from equivalence.weights.transfer import transfer as transfer

_HOMES = {
    "BlockSpec": "blocks.spec",
    "SpecError": "blocks.spec",
    "PerBranch": "blocks.forms",
    "Concatenated": "blocks.forms",
    "Grouped": "blocks.forms",
    "recognize": "blocks.recognize",
    "RecognitionError": "blocks.recognize",
    "transfer": "weights.transfer",
    "convert": "weights.convert",
    "TransferError": "weights.transfer",
    "compare": "arithmetic.floating",
    "prove": "verdict.prove",
    "check": "verdict.check",
    "assert_equivalent": "verdict.check",
    "locate": "verdict.locate.find",
    "Report": "verdict.verdict",
    "Verdict": "verdict.verdict",
}

__all__ = list(_HOMES)  # the keys are the public names
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
