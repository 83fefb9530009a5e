"""What has to be settled before any evidence is gathered.

Guarantee: a module that cannot be run is named with its side, its submodule and what it said; a
pair whose outputs have other shapes or dtypes is DIFFERENT for that reason alone; and where no
evidence could mean anything (numbers that are none, modules that answer the same question in two
ways) the pair is UNDECIDED.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from equivalence.arithmetic.errors import RejectedInput
from equivalence.arithmetic.location import current_submodule, locating
from equivalence.arithmetic.preserve import as_found, seed_everything
from equivalence.verdict.modules import base_dtype, device_of, tensors_of

if TYPE_CHECKING:
    from equivalence.arithmetic.floating import Mode
    from equivalence.verdict.modules import Shape

Sides = tuple[nn.Module, nn.Module]
SIDES = ("left", "right")


def float_input(modules: Sides, shape: Shape, seed: int) -> Tensor:
    """A normal input `(N, C, H, W)` in the modules' dtype, on the left one's device."""
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return drawn.to(device_of(modules[0]), base_dtype(*modules))


def forward(module: nn.Module, side: str, x: Tensor, mode: Mode, seed: int) -> Tensor:
    """A bare forward in the module's own floats, `(N, C_out, H_out, W_out)`.

    Raises:
        RejectedInput: naming the side, the submodule and what it said.
    """
    with as_found(module), locating(module), torch.no_grad():
        seed_everything(seed)
        module.train(mode == "train")
        try:
            output = module(x.clone())
        except Exception as error:
            place = f" in {where}" if (where := current_submodule()) else ""
            said = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise RejectedInput(f"{side} fails on input {tuple(x.shape)}{place}: {said}") from error
    if not isinstance(output, Tensor):
        kind = type(output).__name__
        raise RejectedInput(f"{side} returns a {kind}, but must return one tensor")
    return output


def both_forward(modules: Sides, shape: Shape, mode: Mode, seed: int) -> tuple[Tensor, Tensor]:
    """The outputs of both modules on one input.

    Raises:
        RejectedInput: if one of them fails.
    """
    x = float_input(modules, shape, seed)
    left, right = (forward(m, s, x, mode, seed) for m, s in zip(modules, SIDES, strict=True))
    return left, right


def other_shape(modules: Sides, shape: Shape, mode: Mode, seed: int) -> tuple[Shape, ...]:
    """A shape of the other parity and another batch, if both modules take it."""
    batch, channels, *sizes = shape
    other = (1 if batch > 1 else 2, channels, *(n - 1 if n > 3 else n + 1 for n in sizes))
    try:
        both_forward(modules, other, mode, seed)
    except RejectedInput:
        return ()
    return (other,)


def structural_difference(outputs: tuple[Tensor, Tensor], shape: Shape) -> str | None:
    """Another output shape or dtype, in words."""
    left, right = outputs
    if left.shape != right.shape:
        return f"output shape {tuple(left.shape)} against {tuple(right.shape)} on input {shape}"
    if left.dtype != right.dtype:
        return f"output dtype {left.dtype} against {right.dtype} on input {shape}"
    return None


def obstacle(modules: Sides, outputs: tuple[Tensor, Tensor], shape: Shape, mode: Mode, seed: int) -> str | None:
    """Why no evidence could mean anything, in words."""
    for side, module in zip(SIDES, modules, strict=True):
        for name, tensor in tensors_of(module).items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                return f"{name} of {side} has NaN or infinity"
    x = float_input(modules, shape, seed)
    for side, module, output in zip(SIDES, modules, outputs, strict=True):
        again = forward(module, side, x, mode, seed + 1)
        if not torch.equal(again, output) and not output.isnan().any():
            apart = float((again - output).abs().max())
            return f"{side} is not deterministic: two runs are {apart:.3g} apart"
    return None
