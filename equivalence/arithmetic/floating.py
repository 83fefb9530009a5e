"""What floats show: both modules as the user runs them, every quantity side by side.

Guarantee: the numbers are those of the modules as they are, in their own dtype, on their own
device. Both get the same input, the same cotangent and the same random numbers, and both are left
as they were found. Agreement here proves nothing by itself: floats round, and another order of
summation rounds otherwise.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from equivalence.arithmetic.difference import Quantity, measure
from equivalence.arithmetic.preserve import as_found, seed_everything
from equivalence.blocks.forms import Block
from equivalence.weights.correspondence import ROWS, STAGES, gather

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import nn

Mode = Literal["eval", "train"]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The quantities of two modules, compared.

    Attributes:
        quantities: one `Quantity` for each thing compared, "output" first.
        mode: "eval" or "train".
    """

    quantities: tuple[Quantity, ...]
    mode: Mode

    def __getitem__(self, name: str) -> Quantity:
        for quantity in self.quantities:
            if quantity.name == name:
                return quantity
        raise KeyError(f"{name!r}; compared were {[q.name for q in self.quantities]}")

    @property
    def max_abs_diff(self) -> float:
        """Greatest difference of any output element, absolute."""
        return self["output"].max_abs_diff

    def __str__(self) -> str:
        from equivalence.report.text import comparison  # printing alone looks upwards

        return comparison(self)


def compare(
    left: nn.Module,
    right: nn.Module,
    inputs: Tensor | tuple[Tensor, ...],
    *,
    mode: Mode = "eval",
    stages: bool = True,
    gradients: bool = False,
    seed: int = 0,
) -> Comparison:
    """Run both modules on the same input and compare everything that can be seen.

    >>> from equivalence import BlockSpec, Grouped, PerBranch, transfer
    >>> spec = BlockSpec(in_channels=8, cardinality=2, width=3)
    >>> a, c = PerBranch(spec), Grouped(spec)
    >>> _ = transfer(a, c)
    >>> comparison = compare(a, c, torch.randn(2, 8, 5, 5))
    >>> [quantity.name for quantity in comparison.quantities]
    ['output', 'reduced', 'transformed', 'aggregated']
    >>> comparison.max_abs_diff < 1e-5
    True

    Args:
        left, right: any two modules that return one tensor.
        inputs: `(N, C, H, W)`, or a tuple of inputs; of the modules' dtype and device.
        mode: "eval", or "train" for batch statistics (and running statistics afterwards).
        stages: whether to compare what two forms of a block have in between: reduced, transformed
            and aggregated, in the correspondence's arrangement.
        gradients: whether to compare the gradients of the output under a random cotangent: the
            input's, and, between two forms of a block, each parameter's.
        seed: of the cotangent, and of whatever random numbers the modules draw.

    Returns:
        the comparison; printed, it is a table.

    Raises:
        TypeError: if a module returns no tensor.
        ValueError: if there is nothing to compare, or the mode is unknown.
    """
    if mode not in ("eval", "train"):
        raise ValueError(f"mode (={mode!r}) must be 'eval' or 'train'")
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    forms = isinstance(left, Block) and isinstance(right, Block) and left.spec == right.spec
    watched = _Watched(stages=stages and forms, gradients=gradients, state=forms)
    seen = []
    for side, module in (("left", left), ("right", right)):
        with as_found(module):  # each by itself: what they share, the second finds as the first did
            seen.append(_run(module, side, inputs, mode, watched, seed))
    names = list(seen[0]) + [name for name in seen[1] if name not in seen[0]]
    return Comparison(tuple(_compared(name, *seen) for name in names), mode)


@dataclasses.dataclass(frozen=True)
class _Watched:
    """What is looked at besides the output."""

    stages: bool
    gradients: bool
    state: bool


def _compared(name: str, left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> Quantity:
    if name in left and name in right:
        return measure(name, left[name], right[name])
    return Quantity(name, problem=f"only on the {'left' if name in left else 'right'}")


def _run(
    module: nn.Module,
    side: str,
    inputs: tuple[Tensor, ...],
    mode: Mode,
    watched: _Watched,
    seed: int,
) -> dict[str, Tensor]:
    """Everything that is seen of one module, by the name of the quantity."""
    seed_everything(seed)
    if any(part.training != (mode == "train") for part in module.modules()):
        module.train(mode == "train")
    own = tuple(tensor.detach().clone() for tensor in inputs)
    if watched.gradients:
        own = tuple(t.requires_grad_(t.is_floating_point()) for t in own)
    with torch.set_grad_enabled(watched.gradients), _stages(module, watched.stages) as stages:
        # What a module writes into its input must not reach the leaf that the gradient is of.
        output = module(*(tensor.clone() if watched.gradients else tensor for tensor in own))
    if not isinstance(output, Tensor):
        raise TypeError(f"{side} returned a {type(output).__name__}, but must return one tensor")
    # A copy, because an output may be a tensor of the module's own, which is put back later.
    seen = {"output": output.detach().clone()} | stages()
    if output.requires_grad:
        seen |= _gradients(module, own, output, watched, seed)
    if watched.state and mode == "train":
        seen |= _canonical(module, {name: b.clone() for name, b in module.named_buffers()})
    return seen


def _gradients(
    module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, watched: _Watched, seed: int
) -> dict[str, Tensor]:
    """Gradients of the output under a cotangent that is the same for both modules."""
    cotangent = cotangent_of(output, seed)
    leaves = {f"input{i or ''}": t for i, t in enumerate(inputs) if t.requires_grad}
    parameters = {n: p for n, p in module.named_parameters() if watched.state and p.requires_grad}
    wanted = [*leaves.values(), *parameters.values()]
    if not wanted:
        return {}
    # What the output does not depend on has the gradient zero.
    found = torch.autograd.grad(output, wanted, cotangent, materialize_grads=True)
    grads = dict(zip([*leaves, *parameters], found, strict=True))
    of_inputs = {f"{n}.grad": grads[n] for n in leaves}
    of_parameters = {n: grads[n] for n in parameters}
    return of_inputs | {f"{n}.grad": g for n, g in _canonical(module, of_parameters).items()}


def cotangent_of(output: Tensor, seed: int) -> Tensor:
    """A normal cotangent for an output `(N, C_out, H_out, W_out)`, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output)


def _canonical(module: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A form's tensors in the correspondence's arrangement, so that forms can be compared.

    A quantity that some branches lack (their parameter is frozen), or of which they hold unequal copies (a counter of
    batches), is there for none.
    """
    if not isinstance(module, Block):
        return {}
    form, cardinality = module.form, module.spec.cardinality
    groups = [(row, row.places[form].names(cardinality)) for row in ROWS]
    whole = [
        name
        for row, names in groups
        if tensors.keys() >= set(names) and (row.axes or len({int(tensors[name]) for name in names}) == 1)
        for name in names
    ]
    return gather(form, {name: tensors[name].detach() for name in whole}, cardinality)


@contextlib.contextmanager
def _stages(module: nn.Module, wanted: bool) -> Iterator[Callable[[], dict[str, Tensor]]]:
    """Listen where a form has its stages; called after a run, tell what was heard."""
    if not (wanted and isinstance(module, Block)):
        yield dict
        return
    form, cardinality = module.form, module.spec.cardinality
    heard: dict[tuple[str, str], Tensor] = {}
    with contextlib.ExitStack() as stack:
        for row, port in STAGES:
            for path in row.places[form].names(cardinality):
                part, ear = module.get_submodule(path), _ear(heard, (row.name, path))
                handle = part.register_forward_hook(ear) if port == "returns" else part.register_forward_pre_hook(ear)
                stack.callback(handle.remove)

        def told() -> dict[str, Tensor]:
            return {
                row.name: row.gather(
                    form,
                    [heard[row.name, path] for path in row.places[form].names(cardinality)],
                    cardinality,
                )
                for row, _ in STAGES
            }

        yield told


def _ear(heard: dict[tuple[str, str], Tensor], key: tuple[str, str]) -> Callable[..., None]:
    """A hook that keeps what a submodule returned or, where it has not run yet, received."""

    def listen(_: nn.Module, arguments: tuple[Tensor, ...], *returned: Tensor) -> None:
        heard[key] = (returned or arguments)[0].detach()

    return listen
