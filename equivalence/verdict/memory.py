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
        self._known: dict[Hashable, tuple[object, Any]] = {}

    def recall(self, question: Hashable, answer: Callable[[], T], of: object = None) -> T:
        """The known answer, or a new one that is kept.

        Args:
            question: what is asked.
            answer: called if it was not asked before.
            of: the object that it is asked of; kept alive, so that no later one is taken for it.
        """
        key = (id(of), question)
        if key not in self._known:
            self._known[key] = (of, answer())
        return self._known[key][1]  # type: ignore[no-any-return]  # answers are of any type
