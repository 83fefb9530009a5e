"""Which mistakes are planted.

Guarantee: only faults of the catalogue are drawn, the first of them being the simplest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st

from equivalence.testing.strategies.arguments import some_of

if TYPE_CHECKING:
    from collections.abc import Collection

    from hypothesis.strategies import SearchStrategy

    from equivalence.verdict.faults.fault import Fault


def faults(*, names: Collection[str] | None = None) -> SearchStrategy[Fault]:
    """Faults that can be planted in a copy of a block.

    Args:
        names: of the faults to draw from; all by default.

    Raises:
        InvalidArgument: at the first draw, if there is no fault of a name, or no name.
    """

    def chosen() -> SearchStrategy[Fault]:
        from equivalence.testing.catalogue import catalogue

        known = {fault.name: fault for fault in catalogue()}
        wanted = known if names is None else some_of("faults", "names", names, known)
        return st.sampled_from([known[name] for name in wanted])

    return st.deferred(chosen)
