"""Why a block is none of the three forms, and where that shows."""

from __future__ import annotations


class RecognitionError(ValueError):
    """A module holds no block that has three equivalent forms.

    Attributes:
        reason: why not, in words.
        place: the submodule in which it shows, "" for the module itself.
    """

    def __init__(self, reason: str, place: str = "", progress: int = 0) -> None:
        super().__init__(f"{place}: {reason}" if place else reason)
        self.reason, self.place, self.progress = reason, place, progress
