"""Dataflow, written down: operations, the values between them, and the submodules that they ran in.

Guarantee: plain data without any tensor in it. A value is known by its number; an operation that
writes in place returns a new one.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

from torch.utils import _pytree as pytree

if TYPE_CHECKING:
    from torch._ops import OpOverload


@dataclasses.dataclass(frozen=True)
class Ref:
    """A place in a node's arguments that holds a value."""

    value: int


@dataclasses.dataclass
class Node:
    """One operation: its arguments with `Ref` for every tensor, the values it returned, where it ran."""

    index: int
    func: OpOverload
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[int, ...] = ()
    place: str = ""

    @property
    def op(self) -> str:
        """The operation's name: `convolution`, or `relu` for both relu and relu_."""
        name: str = self.func._schema.name.removeprefix("aten::")
        return name[:-1] if name.endswith("_") and not name.endswith("__") else name

    @functools.cached_property
    def inputs(self) -> list[int]:
        """The values it reads."""
        leaves = pytree.tree_leaves((self.args, self.kwargs))
        return [leaf.value for leaf in leaves if isinstance(leaf, Ref)]

    def argument(self, *names: str) -> Any:
        """The argument of the first of these names that the operation has."""
        for i, argument in enumerate(self.func._schema.arguments):
            if argument.name in names:
                given = self.args[i] if i < len(self.args) else None
                return self.kwargs.get(argument.name, given if i < len(self.args) else argument.default_value)
        raise KeyError(names)


@dataclasses.dataclass
class Call:
    """One call of a submodule: the operations inside, the value that went in and the one that came out."""

    path: str
    first: int
    received: int | None
    input_shape: tuple[int, ...]
    last: int = -1
    returned: int | None = None

    def covers(self, nodes: set[int]) -> bool:
        """Whether all these operations happened inside."""
        return self.first <= min(nodes) and max(nodes) < self.last


@dataclasses.dataclass
class Trace:
    """The dataflow of one run.

    Attributes:
        nodes: the operations in the order in which they ran.
        producer: the node that returned a value; leaves have none.
        shapes: of every value.
        names: of the values that are parameters or buffers.
        input, output: the value that went in, and the one that came out if it is a tensor.
        calls: of submodules, the whole module first.
        counters: names of the integer buffers that were counted up, by the module they belong to.
    """

    nodes: list[Node] = dataclasses.field(default_factory=list)
    producer: dict[int, Node] = dataclasses.field(default_factory=dict)
    shapes: dict[int, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    names: dict[int, str] = dataclasses.field(default_factory=dict)
    input: int = -1
    output: int | None = None
    calls: list[Call] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self._users: dict[int, list[Node]] | None = None

    def users(self, value: int) -> list[Node]:
        """The operations that read a value."""
        if self._users is None:
            self._users = {}
            for node in self.nodes:
                for read in dict.fromkeys(node.inputs):
                    self._users.setdefault(read, []).append(node)
        return self._users.get(value, [])

    @functools.cached_property
    def leaves(self) -> list[str]:
        """The parameters and buffers that operations read, in order, repeats included."""
        return [self.names[value] for node in self.nodes for value in node.inputs if value in self.names]

    def place(self, node: Node) -> str:
        """The innermost submodule in which an operation ran."""
        return node.place
