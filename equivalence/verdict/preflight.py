"""What has to be settled before any evidence is gathered.

Guarantee: a module that cannot be run is named with its side, its submodule and what it said; a
pair whose outputs have other shapes or dtypes is DIFFERENT for that reason alone; and where no
evidence could mean anything (numbers that are none, modules that answer the same question in two
ways) the pair is UNDECIDED.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode

from equivalence.arithmetic.errors import RejectedInput
from equivalence.arithmetic.floating import compare
from equivalence.arithmetic.location import current_submodule, locating
from equivalence.arithmetic.preserve import as_found, seed_everything
from equivalence.verdict.modules import base_dtype, device_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from equivalence.arithmetic.floating import Mode
    from equivalence.verdict.modules import Shape

Sides = tuple[nn.Module, nn.Module]
Outputs = tuple[Tensor, Tensor]
SIDES = ("left", "right")


def float_input(modules: Sides, shape: Shape, seed: int) -> Tensor:
    """A normal input `(N, C, H, W)` in the modules' dtype, on the left one's device."""
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return drawn.to(device_of(modules[0]), base_dtype(*modules))


def forward(module: nn.Module, side: str, x: Tensor, mode: Mode, seed: int, reach: Reach | None = None) -> Tensor:
    """A bare forward in the module's own floats, `(N, C_out, H_out, W_out)`; `reach` may look on.

    Raises:
        RejectedInput: naming the side, the submodule and what it said.
    """
    with as_found(module), locating(module), torch.no_grad():
        seed_everything(seed)
        module.train(mode == "train")
        try:
            with reach or contextlib.nullcontext():
                output = module(x.clone())
        except Exception as error:
            place = f" in {where}" if (where := current_submodule()) else ""
            said = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise RejectedInput(f"{side} fails on input {tuple(x.shape)}{place}: {said}") from error
    if not isinstance(output, Tensor):
        kind = type(output).__name__
        raise RejectedInput(f"{side} returns a {kind}, but must return one tensor")
    return output


def both_forward(modules: Sides, shape: Shape, mode: Mode, seed: int, reach: Reach | None = None) -> Outputs:
    """The outputs of both modules on one input; `reach` may look on.

    Raises:
        RejectedInput: if one of them fails.
    """
    x = float_input(modules, shape, seed)
    left, right = (forward(m, s, x, mode, seed, reach) for m, s in zip(modules, SIDES, strict=True))
    return left, right


class Reach(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's class hook is untyped
    """While active, `factor` is how many times larger inputs must be for every window to lie inside once.

    Where windows are wider than what they slide over, their outer weights meet nothing but padding.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # likewise
        self.sizes = sizes
        self.factor = 1.0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name == "convolution" and not args[6]:
            self._slide(args[0], args[1].shape[2:], args[5])
        elif name.startswith(("max_pool", "avg_pool")) and "backward" not in name:
            dilation = args[4] if name.startswith("max_pool") and len(args) > 4 else (1,)
            self._slide(args[0], args[1], dilation)
        return func(*args, **(kwargs or {}))

    def _slide(self, x: Tensor, kernel: Sequence[int], dilation: Sequence[int]) -> None:
        dims = len(self.sizes)
        if x.dim() < dims or not dims:
            return
        kernel, dilation = [[*given] * dims if len(given) == 1 else [*given] for given in (kernel, dilation)]
        for asked, size, k, d in zip(self.sizes, x.shape[-dims:], kernel, dilation, strict=False):
            self.factor = max(self.factor, (d * (k - 1) + 1) / max(1, min(asked, size)))


def other_shape(modules: Sides, shape: Shape, mode: Mode, seed: int, factor: float) -> dict[Shape, Outputs]:
    """A shape of the other parity and another batch that both modules take, with their outputs.

    Modules that take one size or one batch only get another batch or another size alone. Sizes grow
    by `factor`, so that no window hides in the padding.
    """
    batch, *rest = shape
    channels, sizes = tuple(rest[:1]), tuple(rest[1:])
    others = tuple(_other_size(n, factor) for n in sizes)
    few = 1 if batch > 1 else 2
    candidates = [(few, others), (batch + 1, others), (few, sizes), (batch + 1, sizes), (batch, others)]
    for n, size in candidates:
        other = (n, *channels, *size)
        try:
            return {other: both_forward(modules, other, mode, seed)}
        except RejectedInput:
            continue
    return {}


def _other_size(n: int, factor: float) -> int:
    if factor <= 1:
        return n - 1 if n > 3 else n + 1
    enough = math.ceil(n * factor)
    return enough if (enough - n) % 2 else enough + 1


def check_data(modules: Sides) -> None:
    """Refuse modules whose tensors hold no data or cannot be replaced.

    Raises:
        RejectedInput: naming the side and the tensor or submodule.
    """
    for side, module in zip(SIDES, modules, strict=True):
        for name, part in module.named_modules():
            if isinstance(part, torch.jit.ScriptModule):
                place = f" in {name}" if name else ""
                raise RejectedInput(f"{side} is scripted{place}: pass the module that it was made from")
        for name, tensor in itertools.chain(module.named_parameters(), module.named_buffers()):
            if tensor.is_meta or is_lazy(tensor):
                raise RejectedInput(f"{side} has no data in {name}: materialise or initialise it before the check")


def _noting(entered: list[str], path: str) -> Callable[..., None]:
    """A hook that notes which submodule is gone through."""
    return lambda *_: entered.append(path)


def explain_backward(modules: Sides, x: Tensor, mode: Mode, seed: int) -> None:
    """Run both modules forward and backward, to name the one that fails.

    Raises:
        RejectedInput: naming the side, the submodule and what it said.
    """
    for side, module in zip(SIDES, modules, strict=True):
        entered: list[str] = []
        handles = [
            part.register_full_backward_pre_hook(_noting(entered, path)) for path, part in module.named_modules()
        ]
        try:
            compare(module, module, x, mode=mode, gradients=True, seed=seed)
        except Exception as error:
            place = f" in {entered[-1]}" if entered and entered[-1] else ""
            said = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise RejectedInput(f"{side} fails going backward{place}: {said}") from error
        finally:
            for handle in handles:
                handle.remove()


def structural_difference(outputs: Outputs, shape: Shape) -> str | None:
    """Another output shape or dtype, in words."""
    left, right = outputs
    if left.shape != right.shape:
        return f"output shape {tuple(left.shape)} against {tuple(right.shape)} on input {shape}"
    if left.dtype != right.dtype:
        return f"output dtype {left.dtype} against {right.dtype} on input {shape}"
    return None


def post_hooks(tensor: Tensor) -> bool:
    """Whether something happens after a gradient is accumulated."""
    return bool(getattr(tensor, "_post_accumulate_grad_hooks", None))


def obstacle(modules: Sides, outputs: Outputs, shape: Shape, mode: Mode, seed: int) -> str | None:
    """Why no evidence could mean anything, in words."""
    for side, module in zip(SIDES, modules, strict=True):
        for name, tensor in itertools.chain(module.named_parameters(), module.named_buffers()):
            if tensor.is_floating_point() and not tensor.isfinite().all():
                return f"{name} of {side} has NaN or infinity"
            if mode == "train" and (getattr(tensor, "_backward_hooks", None) or post_hooks(tensor)):
                return f"{name} of {side} has a hook that can change its gradient"
    x = float_input(modules, shape, seed)
    for side, module, output in zip(SIDES, modules, outputs, strict=True):
        again = forward(module, side, x, mode, seed + 1)
        if not torch.equal(again, output) and not output.isnan().any():
            apart = float((again - output).abs().max())
            return f"{side} is not deterministic: two runs are {apart:.3g} apart"
    return None
