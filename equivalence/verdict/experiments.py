"""What is done to both modules, so that their results can be compared.

Guarantee: no experiment needs a name of a parameter, so any two modules can be compared. Outputs
show the forward pass, the input's gradient the backward pass. In training mode, evaluating after a
training step shows the running statistics, and evaluating after a step of plain gradient descent
shows every parameter's gradient: two modules that no experiment tells apart train alike.

The same code runs in every arithmetic: it is given tensors and never asks what kind they are.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from equivalence.arithmetic.errors import RejectedInput
from equivalence.blocks.forms import Block
from equivalence.verdict.modules import shares_tensors
from equivalence.verdict.names import AFTER_SGD as AFTER_SGD
from equivalence.verdict.names import AFTER_TRAINING as AFTER_TRAINING
from equivalence.verdict.names import EXPERIMENTS
from equivalence.verdict.names import INPUT_GRADIENT as INPUT_GRADIENT
from equivalence.verdict.names import OUTPUTS as OUTPUTS
from equivalence.verdict.names import SECOND_CALL as SECOND_CALL
from equivalence.weights.correspondence import ROWS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from equivalence.arithmetic.floating import Mode

# A power of two, so that the step is exact in every arithmetic.
LEARNING_RATE = 0.125


@dataclasses.dataclass(frozen=True)
class Probe:
    """What both modules are given.

    Attributes:
        x: the input, `(N, C, H, W)`.
        later: another input of that shape, for evaluation after a training step.
        cotangent: makes the cotangent of an output, `(N, C_out, H_out, W_out)`.
    """

    x: Tensor
    later: Tensor
    cotangent: Callable[[Tensor], Tensor]


def run(
    module: nn.Module,
    tensors: Mapping[str, Any],
    probe: Probe,
    mode: Mode,
    *,
    gradients: bool = True,
    sgd: bool = True,
) -> dict[str, Tensor]:
    """The results of all experiments of a mode, by name.

    Args:
        module: any module; which of its parts are training is changed.
        tensors: its parameters and buffers in some arithmetic; buffers may be written to.
        probe: input and cotangent in the same arithmetic.
        mode: "eval" or "train".
        gradients: whether to go backward, and in training to take the steps that need it.
        sgd: whether one of the steps in training is one of SGD.

    Raises:
        RejectedInput: if the module returns no tensor.
    """
    module.train(mode == "train")
    if not gradients:
        with torch.no_grad():
            return {OUTPUTS: _call(module, dict(tensors), probe.x.clone())}
    wanted = [n for n, p in module.named_parameters() if p.requires_grad and mode == "train" and sgd]
    state = {**tensors, **{n: tensors[n].detach().requires_grad_() for n in wanted}}
    leaf = probe.x.detach().requires_grad_()
    before = _versions(state)
    with torch.enable_grad():
        # A module may write into its input, which a leaf does not allow.
        output = _call(module, state, leaf.clone())
        found = _gradients(output, [leaf, *(state[name] for name in wanted)], probe)
    results = {OUTPUTS: output.detach()}
    if mode == "eval" and _versions(state) != before:
        with torch.no_grad():
            results[SECOND_CALL] = _call(module, state, probe.x.clone())
    if found[0] is not None:
        results[INPUT_GRADIENT] = found[0]
    if mode == "train":
        gradient_of = {n: g for n, g in zip(wanted, found[1:], strict=True) if g is not None}
        results |= _after_steps(module, state, gradient_of, probe, sgd=sgd)
    return results


def _after_steps(
    module: nn.Module, state: dict[str, Any], gradient_of: Mapping[str, Tensor], probe: Probe, *, sgd: bool
) -> dict[str, Tensor]:
    """Evaluation after the training step that the buffers saw, and after a step of SGD too."""
    module.eval()
    with torch.no_grad():
        results = {AFTER_TRAINING: _call(module, {**state}, probe.later.clone())}
        if sgd:
            stepped = {name: state[name] - LEARNING_RATE * g for name, g in gradient_of.items()}
            results[AFTER_SGD] = _call(module, {**state, **stepped}, probe.later.clone())
        if isinstance(module, Block):
            buffers = {name for name, _ in module.named_buffers()}
            statistics = {name: tensor for name, tensor in state.items() if name in buffers}
            results |= _one_by_one(module, statistics, "{}")
            results |= _one_by_one(module, gradient_of, "{}.grad")
    return results


def correspond(left: nn.Module, right: nn.Module) -> bool:
    """Whether both are forms of one spec that hold the same numbers under the correspondence.

    Only then does a difference in one named tensor after a training step tell them apart: branches in another order
    hold other numbers under every name and are the same function.
    """
    if not (isinstance(left, Block) and isinstance(right, Block) and left.spec == right.spec):
        return False
    ours, theirs = (_one_by_one(side, _tensors(side), "{}") for side in (left, right))
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def comparable(
    left: Mapping[str, Tensor], right: Mapping[str, Tensor], *, by_name: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Both sides' results that may decide a verdict: experiments, and single tensors only where names mean the same."""
    of_any_module = {name for names in EXPERIMENTS.values() for name in names}
    ours, theirs = ({n: t for n, t in side.items() if by_name or n in of_any_module} for side in (left, right))
    return ours, theirs


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    parameters = {name: parameter.detach() for name, parameter in module.named_parameters()}
    return parameters | dict(module.named_buffers())


def _one_by_one(module: Block, tensors: Mapping[str, Tensor], label: str) -> dict[str, Tensor]:
    """A form's tensors in the correspondence's arrangement, so that forms can be compared."""
    cardinality = module.spec.cardinality
    return {
        label.format(row.name): row.gather(module.form, [tensors[n] for n in names], cardinality)
        for row in ROWS
        if tensors.keys() >= set(names := row.places[module.form].names(cardinality))
        and len({tensors[name].shape for name in names}) == 1
        and (row.axes or _agree([tensors[name] for name in names]))
    }


def _agree(copies: list[Tensor]) -> bool:
    """Whether copies of one counter are equal; branches that count apart have no counter in common."""
    return all(torch.equal(copies[0], other) for other in copies)


def _gradients(output: Tensor, leaves: list[Tensor], probe: Probe) -> Sequence[Tensor | None]:
    if not output.requires_grad:
        return [None] * len(leaves)
    cotangent = probe.cotangent(output.detach())
    return torch.autograd.grad(output, leaves, cotangent, allow_unused=True)


def paired(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> dict[str, tuple[Tensor | None, Tensor | None]]:
    """The results of both modules by experiment; None where a module has none.

    A module that a call leaves as it was answers a second call as the first, and what does not
    depend on the input has the gradient zero.
    """

    def result(own: Mapping[str, Tensor], name: str, other: Mapping[str, Tensor]) -> Tensor | None:
        if name == SECOND_CALL:
            return own.get(name, own[OUTPUTS])
        if name == INPUT_GRADIENT and name not in own:
            return torch.zeros_like(other[name])
        return own.get(name)

    return {name: (result(left, name, right), result(right, name, left)) for name in {**left, **right}}


def _versions(tensors: Mapping[str, Tensor]) -> list[tuple[int, int]]:
    """Changes if a tensor is written to or replaced."""
    return [(id(tensor), tensor._version) for tensor in tensors.values()]


def _call(module: nn.Module, tensors: dict[str, Any], x: Tensor) -> Tensor:
    """The output; a buffer that the module replaces by a new tensor is replaced in `tensors` too."""
    output = functional_call(module, tensors, (x,), tie_weights=shares_tensors(module))
    if not isinstance(output, Tensor):
        raise RejectedInput(f"returned a {type(output).__name__}, but must return one tensor")
    return output
