"""What Hypothesis calls when it is imported, through its entry point.

Guarantee: `st.from_type(BlockSpec)` draws valid small specs, and so does `st.builds` of whatever
is annotated with one. Neither torch nor the strategies are imported before something is drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

    from equivalence.blocks.spec import BlockSpec


def register() -> None:
    """Say to Hypothesis how a `BlockSpec` is drawn.

    >>> from hypothesis import find, strategies as st
    >>> from equivalence import BlockSpec
    >>> register()
    >>> find(st.from_type(BlockSpec), lambda spec: True).template
    '1x1d'
    """
    from hypothesis import strategies as st

    from equivalence.blocks.spec import BlockSpec

    st.register_type_strategy(BlockSpec, _specs)


def _specs(_: type[BlockSpec]) -> SearchStrategy[BlockSpec]:
    # Hypothesis is still being imported when it asks for the registration: import no sooner.
    from equivalence.testing.strategies import block_specs

    return block_specs()
