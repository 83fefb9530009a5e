"""What is already known of a module, so that nothing is run twice.

Guarantee: a result is reused only for the same objects (module, field), in the same arithmetic with
the same draws; they are kept alive, so that no other object can take their identity. Whoever shares
a memory among checks promises that the modules' weights stay as they are in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

T = TypeVar("T")


class Memory:
    """Results by the question that they answer, and the objects that it is about.

    >>> memory, module = Memory(), object()
    >>> memory.recall("twice 3", lambda: 6, module), memory.recall("twice 3", lambda: 7, module)
    (6, 6)
    >>> memory.recall("twice 3", lambda: 7, object())
    7
    """

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[Any, tuple[object, ...]]] = {}

    def recall(self, question: Hashable, answer: Callable[[], T], *about: object) -> T:
        """The known answer, or a new one that is kept."""
        key = (question, *map(id, about))
        if key not in self._known:
            self._known[key] = answer(), about
        return self._known[key][0]  # type: ignore[no-any-return]  # answers are of any type
