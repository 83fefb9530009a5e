"""New tensors for a module that stands where another stood, and all that was said of the old ones.

Guarantee: scalars keep their bits, device and dtype; whether they are trained, saved and updated goes
on with them, and so do the module's hooks, mode and plain attributes. Where many tensors become one
and differ in any of that, nothing is made. Gradients do not come along.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import nn

from equivalence.weights.optimizer import moved_numbers
from equivalence.weights.sides import Located, across, owned

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Renewed:
    """A tensor of the new module.

    Attributes:
        name: where it is.
        tensor: its scalars, in memory of its own.
        trained: whether it takes part in training, for parameters.
        training: the mode of the module that holds it, for buffers.
        saved: whether it is part of the state dict.
    """

    name: str
    tensor: Tensor
    trained: bool = True
    training: bool = True
    saved: bool = True

    def put(self, module: nn.Module) -> None:
        """Put it into its place in a module."""
        owner, leaf = owner_of(module, self.name)
        if leaf in owner._parameters:
            owner._parameters[leaf] = nn.Parameter(self.tensor, requires_grad=self.trained)
        else:
            owner.register_buffer(leaf, self.tensor, persistent=self.saved)
            owner.training = self.training  # a norm may have been frozen by itself


def renewed(given: Mapping[str, Tensor], left: Located, right: Located, source: nn.Module) -> list[Renewed]:
    """A block's tensors as the new module has them; counters that were not kept start at zero.

    Args:
        given: the source's tensors by name.
        left, right: where the block's are, and where they go.
        source: the module that holds them.

    Raises:
        CorrespondenceError: if they do not fit, or differ where they become one.
    """
    own = {name: given[name] for name in left.names if name in given}
    homes = {name: owner_of(source, name) for name in own}
    buffers = [name for name, (owner, leaf) in homes.items() if leaf in owner._buffers]

    def flags(what: str, of: Mapping[str, bool]) -> dict[str, float]:
        return moved_numbers(what, of, own, lambda spread: across(spread, left, right))

    with torch.no_grad():
        tensors = across(own, left, right)
        trained = flags("requires_grad", {n: getattr(*homes[n]).requires_grad for n in own if n not in buffers})
        training = flags("training mode", {n: homes[n][0].training for n in buffers})
        saved = flags("persistence", {n: homes[n][1] not in homes[n][0]._non_persistent_buffers_set for n in buffers})
    made = [
        Renewed(n, owned(t), bool(trained.get(n, True)), bool(training.get(n, True)), bool(saved.get(n, True)))
        for n, t in tensors.items()
    ]
    device = next(iter(tensors.values())).device
    modes = {new.name.rpartition(".")[0]: new.training for new in made if new.name not in trained}
    for name in right.counters_beyond(left):
        count = torch.zeros((), dtype=torch.long, device=device)
        made.append(Renewed(name, count, training=modes[name.rpartition(".")[0]]))
    return made


def take_over(part: nn.Module, old: nn.Module) -> None:
    """Give a new module the hooks, the mode and the plain attributes of the one that it replaces."""
    for attribute, value in vars(old).items():
        plain = not attribute.startswith("_") and attribute not in vars(part)
        if "hook" in attribute or plain:  # code around it may ask for a stride or a width
            setattr(part, attribute, value)
    part.train(old.training)


def hooked_inside(module: nn.Module) -> str | None:
    """The path of a submodule with hooks, which a replacement would lose."""
    for path, part in module.named_modules():
        if path and any(value for name, value in vars(part).items() if name.endswith("_hooks")):
            return str(path)
    return None


def owner_of(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The submodule that a tensor belongs to, and its name there."""
    path, _, leaf = name.rpartition(".")
    return module.get_submodule(path), leaf
