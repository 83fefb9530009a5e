"""Importing the package is free: torch is loaded when something that needs it is first used."""

import subprocess
import sys

import pytest

import equivalence


def loads_torch(statement: str) -> bool:
    """Whether a fresh interpreter has torch in `sys.modules` after a statement."""
    code = f"{statement}\nimport sys\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {"True\n": True, "False\n": False}[done.stdout]


@pytest.mark.parametrize(
    "statement", ["import equivalence", "from equivalence import BlockSpec, SpecError"]
)
def test_no_torch_is_imported(statement):
    assert not loads_torch(statement)


def test_the_test_above_can_fail():
    assert loads_torch("from equivalence import Grouped")


@pytest.mark.parametrize("name", equivalence.__all__)
def test_every_public_name_is_there_and_listed(name):
    assert getattr(equivalence, name).__name__ == name
    assert name in dir(equivalence)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"^module 'equivalence' has no attribute 'nonsense'$"):
        equivalence.nonsense  # noqa: B018  # looking it up is the test
