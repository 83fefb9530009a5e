"""Importing the package is free: torch is loaded when something that needs it is first used."""

import subprocess
import sys

import pytest

import equivalence


def loads(statement: str) -> set[str]:
    """Which heavy modules a fresh interpreter has in `sys.modules` after a statement."""
    code = f"{statement}\nimport sys\nprint(*{{'torch', 'torch._dynamo'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("statement", ["import equivalence", "from equivalence import BlockSpec, SpecError"])
def test_no_torch_is_imported(statement):
    assert loads(statement) == set()


def test_the_test_above_can_fail():
    assert loads("from equivalence import Grouped") == {"torch"}


def test_converting_a_block_loads_no_compiler():
    convert = (
        "from equivalence import BlockSpec, Grouped, convert\n"
        "convert(Grouped(BlockSpec(in_channels=4, cardinality=2, width=3)), 'per-branch')"
    )
    assert loads(convert) == {"torch"}


@pytest.mark.parametrize("name", equivalence.__all__)
def test_every_public_name_is_there_and_listed(name):
    assert getattr(equivalence, name).__name__ == name
    assert name in dir(equivalence)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"^module 'equivalence' has no attribute 'nonsense'$"):
        equivalence.nonsense  # noqa: B018  # looking it up is the test
