"""What is already known of a module, so that nothing is run twice.

Guarantee: a result is reused only for the same module, tensor contents untouched, in the same
arithmetic with the same draws. Whoever shares a memory among checks promises that the modules'
weights stay as they are in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

T = TypeVar("T")


class Memory:
    """Results by the question that they answer.

    >>> memory = Memory()
    >>> memory.recall("twice 3", lambda: 6), memory.recall("twice 3", lambda: 7)
    (6, 6)
    """

    def __init__(self) -> None:
        self._known: dict[Hashable, Any] = {}

    def recall(self, question: Hashable, answer: Callable[[], T]) -> T:
        """The known answer, or a new one that is kept."""
        if question not in self._known:
            self._known[question] = answer()
        return self._known[question]  # type: ignore[no-any-return]  # answers are of any type
