"""What the arguments of strategies must be.

Guarantee: an argument that no block can satisfy is `InvalidArgument`, naming strategy, argument,
value and rule.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis.errors import InvalidArgument
from hypothesis.strategies import SearchStrategy

from equivalence.blocks.spec import BlockSpec
from equivalence.testing.names import DTYPES

if TYPE_CHECKING:
    from collections.abc import Collection


def positive(strategy: str, **arguments: object) -> None:
    """Demand integers of at least 1."""
    for name, value in arguments.items():
        if type(value) is not int or value < 1:
            raise InvalidArgument(f"{strategy}: {name} (={value!r}) must be an integer of at least 1")


def ordered(strategy: str, **arguments: int) -> None:
    """Demand that the first of two limits is not above the second."""
    (low, least), (high, most) = arguments.items()
    if least > most:
        raise InvalidArgument(f"{strategy}: {low} (={least}) must not exceed {high} (={most})")


def one_of(strategy: str, name: str, value: Any, known: Collection[str]) -> Any:
    """Demand a known name, and return it."""
    if value not in known:
        raise InvalidArgument(f"{strategy}: {name} (={value!r}) must be one of {', '.join(known)}")
    return value


def some_of(strategy: str, name: str, values: Any, known: Collection[str]) -> tuple[str, ...]:
    """Demand known names, at least one, and return them."""
    if isinstance(values, str) or not (chosen := tuple(values)):
        raise InvalidArgument(f"{strategy}: {name} (={values!r}) must hold at least one of {', '.join(known)}")
    for value in chosen:
        one_of(strategy, name, value, known)
    return chosen


def spec_strategy(strategy: str, spec: Any) -> SearchStrategy[BlockSpec]:
    """A spec, a strategy of specs, or none, as a strategy."""
    from hypothesis import strategies as st

    from equivalence.testing.strategies.specs import block_specs

    if spec is None:
        return block_specs()
    if isinstance(spec, BlockSpec):
        return st.just(spec)
    if isinstance(spec, SearchStrategy):
        return spec
    raise InvalidArgument(f"{strategy}: spec (={spec!r}) must be a BlockSpec or a strategy of them")


def dtype_name(strategy: str, dtype: Any) -> str:
    """The name of a float dtype, given as its name or as torch's own object."""
    name: str = one_of(strategy, "dtype", str(dtype).removeprefix("torch."), DTYPES)
    return name
