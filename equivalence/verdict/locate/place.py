"""What is said about where two modules part.

Guarantee: plain data, so it can be shown in any format; nothing in it is a guess except `looks_like`, and that is there
only if planting the fault was proved to give the other side.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Scalar:
    """The first scalar, under the correspondence, in which two forms do not hold the same number.

    Attributes:
        row: the quantity, such as "transform.conv.weight".
        left_name, right_name: tensor and index in each form, such as "transform.conv.weight[3, 0, 1, 1]".
        left, right: both values.
        branch: it belongs to; None if it belongs to none.
        tap: spatial index inside the kernel; empty if it is no kernel's.
        differing, compared: how many scalars of the quantity differ, of how many.
        flat: its position in the canonical arrangement.
    """

    row: str
    left_name: str
    right_name: str
    left: float
    right: float
    branch: int | None
    tap: tuple[int, ...]
    differing: int
    compared: int
    flat: int

    def __str__(self) -> str:
        tap = f", kernel tap {list(self.tap)}" if len(self.tap) and self.compared else ""
        names = self.left_name if self.left_name == self.right_name else f"{self.left_name} / {self.right_name}"
        many = f"{self.differing:,} of {self.compared:,} scalars of {self.row} differ"
        return f"{names}: {self.left!r} / {self.right!r}{tap}; {many}"


@dataclasses.dataclass(frozen=True)
class Place:
    """Where two modules part, and what would explain it.

    Attributes:
        stage: the first stage that parts: "reduced", "transformed", "aggregated", "normed", "output", "statistics",
            "parameter gradients", "input gradient", or the path of a submodule; "unseen" if no input showed it.
        statement: the greatest difference there, in words.
        branch: the branch in which it is greatest; None if the stage belongs to none.
        channel: of that difference, inside the branch or of the output.
        scalar: the first scalar that differs, where weights correspond.
        settings: hyper-parameters that differ, in words.
        smallest: the smallest example at which it still shows, in words.
        looks_like: the fault that explains it, in words.
        fault: that fault's name.
    """

    stage: str
    statement: str
    branch: int | None = None
    channel: int | None = None
    scalar: Scalar | None = None
    settings: tuple[str, ...] = ()
    smallest: str | None = None
    looks_like: str | None = None
    fault: str | None = None

    @property
    def lines(self) -> tuple[str, ...]:
        """What is known, a line each."""
        said = [f"first apart: {self.statement}"]
        said += [f"scalar: {self.scalar}"] if self.scalar else []
        said += [f"setting: {setting}" for setting in self.settings]
        said += [f"smallest example: {self.smallest}"] if self.smallest else []
        said += [f"looks like: {self.looks_like}"] if self.looks_like else []
        return tuple(said)

    def __str__(self) -> str:
        return "\n".join(self.lines)
