"""Where a module keeps a quantity of the block: the names of its tensors, and the order of their axes."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Place:
    """One cell of the correspondence: a path, and the arrangement of the canonical axes there.

    >>> Place("branches.{c}.expand.weight", "c o i ...").names(2)
    ['branches.0.expand.weight', 'branches.1.expand.weight']

    Args:
        path: of the tensor; `{c}` stands for the number of the branch.
        axes: an einops pattern over the canonical axes of the row.
        listed: the names themselves, one for each branch, where no path says them.
    """

    path: str
    axes: str
    listed: tuple[str, ...] = ()

    @property
    def per_branch(self) -> bool:
        """Whether there is one tensor for each branch."""
        return bool(self.listed) or "{c}" in self.path

    @property
    def label(self) -> str:
        """The place in words, as errors name it."""
        return self.listed[0] if self.listed else self.path

    def name(self, branch: int) -> str:
        """The name of the tensor that holds a branch."""
        return self.listed[branch] if self.listed else self.path.replace("{c}", str(branch))

    def names(self, cardinality: int) -> list[str]:
        """The tensors' names, one for each branch or just one."""
        return [self.name(branch) for branch in range(cardinality if self.per_branch else 1)]

    def inside(self, prefix: str) -> Place:
        """The same place seen from a module that holds this one under a path."""
        if not prefix:
            return self
        listed = tuple(f"{prefix}.{name}" for name in self.listed)
        return Place(f"{prefix}.{self.path}", self.axes, listed)

    def region(self, branch: int, cardinality: int, shape: Sequence[int]) -> str:
        """The slice that holds a branch where branches share a tensor: `expand.weight[:, 4:8]`."""
        for axis, token in enumerate(re.findall(r"\([^)]*\)|\S+", self.axes)):
            if "c" in axes_of(token):
                width = shape[axis] // cardinality
                return f"{self.path}[{':, ' * axis}{branch * width}:{(branch + 1) * width}]"
        return self.path


def axes_of(pattern: str) -> set[str]:
    """The names of the axes in a pattern."""
    return set(re.findall(r"\w+", pattern))
