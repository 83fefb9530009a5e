"""Small integers on the user's own kernels: where no sum can round, equal must mean *equal*.

Guarantee: weights and inputs are integers such that every partial sum of every operation, in any
order, is an integer below 2^p, with p the bits of the dtype's significand. Such a sum is exact in
every order, so two correct kernels return equal results, whatever their layout, blocking or fusion.
This is checked and not assumed: the same module is run in float64 on absolute values, with every
subtraction turned into an addition, and no result may reach 2^p. Operations that are not exact on
integers (a sigmoid, a mean over 49) make the arithmetic "not applicable", with the reason.

Weights become integers by a random function *of their value*, so equal weights become equal
integers wherever a transfer has put them, without any names; zero stays zero. A norm gets a
variance 4^k beside which its eps is lost in any arithmetic, and a gamma of ±2^k: its scale is ±1.

Source: oneDNN's benchdnn fills tensors likewise, for one operation at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from equivalence.arithmetic.location import current_submodule

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy.typing as npt

aten = torch.ops.aten

SIGNIFICAND = {torch.float64: 53, torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}


class NotApplicable(RuntimeError):
    """There are no integers on which a module is exact; says why."""


def integers(module: nn.Module, density: float, seed: int, *, per_output: bool = False) -> dict[str, Tensor]:
    """Integer values for all parameters and buffers, equal for equal values.

    >>> conv = nn.Conv2d(1, 2, 1, bias=False)
    >>> with torch.no_grad():
    ...     _ = conv.weight.fill_(0.3)
    >>> first, second = integers(conv, 1.0, seed=0)["weight"].flatten()
    >>> bool(first == second), abs(first.item())
    (True, 1.0)

    Args:
        module: any module.
        density: fraction of weights that do not become 0.
        seed: of the random function from values to integers.
        per_output: whether `density` is the number of inputs instead that an output depends on in the
            mean. So deep networks keep small sums, but equal values become other integers in tensors
            of other shapes: integers of one form have to be moved to the other.
    """
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    floats = {name: t for name, t in tensors.items() if t.is_floating_point()}
    values = {name: t.detach().clone() for name, t in tensors.items() if name not in floats}
    shares = {name: _share(t, density) if per_output else density for name, t in floats.items()}
    drawn = _ternary_all(floats, shares, seed)
    for path, part in module.named_modules():
        if getattr(part, "running_var", None) is not None and hasattr(part, "eps"):
            _scale_by_one(drawn, f"{path}." if path else "", part.eps, floats)
    return values | {name: drawn[name].to(t) for name, t in floats.items()}


def _scale_by_one(drawn: dict[str, Tensor], prefix: str, eps: float, floats: Mapping[str, Tensor]) -> None:
    """Give a batch norm the scale ±1 in any arithmetic up to float64.

    Its eps must be lost beside 4^k in float64 too, as a kernel may add them there.
    """
    variance = f"{prefix}running_var"
    largest = torch.finfo(floats[variance].dtype).max
    k = next((k for k in range(60) if eps < 4.0**k * 2.0**-54), 60)
    while 4.0**k > largest:
        k -= 1
    drawn[variance] = torch.full_like(drawn[variance], 4.0**k)
    if (gamma := f"{prefix}weight") in drawn:
        # Any gamma but 0 becomes ±2^k: a norm that scales to nothing would hide what is before it.
        sign = torch.where(drawn[gamma] < 0, -1.0, 1.0)
        drawn[gamma] = sign * (floats[gamma] != 0).cpu() * 2.0**k


def _share(weight: Tensor, inputs: float) -> float:
    """The fraction of a tensor that leaves so many inputs to every output."""
    return min(1.0, inputs / max(_OF_VECTORS, weight[0].numel() if weight.dim() > 1 else 0))


# What is added to sums, such as a bias, must not outweigh them.
_OF_VECTORS = 8


def _ternary_all(tensors: Mapping[str, Tensor], shares: Mapping[str, float], seed: int) -> dict[str, Tensor]:
    """`_ternary` of many tensors at once: one call costs as much as one small tensor."""
    if not tensors:
        return {}
    sizes = [t.numel() for t in tensors.values()]
    flat = torch.cat([t.detach().cpu().double().reshape(-1) for t in tensors.values()])
    of_each = [shares[name] for name in tensors]
    density: float | Tensor = of_each[0]
    if len(set(of_each)) > 1:
        density = torch.tensor(of_each, dtype=torch.float64).repeat_interleave(torch.tensor(sizes))
    parts = torch.split(_ternary(flat, density, seed), sizes)
    return {n: part.view(t.shape) for (n, t), part in zip(tensors.items(), parts, strict=True)}


def _ternary(values: Tensor, density: float | Tensor, seed: int) -> Tensor:
    """-1, 0 or 1 as a random function of each value; a share of `density` is not 0, and 0 is 0."""
    mixed = values.view(torch.int64) * _MULTIPLIERS[0] + torch.tensor(seed) * _MULTIPLIERS[1]
    for multiplier in _MULTIPLIERS:
        mixed = (mixed ^ ((mixed >> 31) & (2**33 - 1))) * multiplier
    uniform = ((mixed >> 11) & (2**53 - 1)).double() / 2.0**53
    kept = (uniform < density) & (values != 0)
    return torch.where(uniform < density / 2, 1.0, -1.0).double() * kept


# Odd, without pattern: those of SplitMix64 (Steele et al. 2014), as signed integers.
_MULTIPLIERS = tuple(m - 2**64 for m in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def integer_array(shape: tuple[int, ...], density: float, seed: int) -> npt.NDArray[np.float64]:
    """-1, 0 or 1 in float64; a share of `density` is not 0."""
    uniform = np.random.default_rng(seed).random(shape)
    return np.where(uniform < density / 2, 1.0, -1.0) * (uniform < density)


class Magnitudes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's class hook is untyped
    """While active, every result bounds the sums of absolute values that it was made of.

    The module is run on absolute weights and inputs; what would subtract adds, what would cut off
    passes. `largest` is the greatest bound met; whether it fits a significand is for the caller to see.

    Raises:
        NotApplicable: from within, at an operation that is not exact on integers.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # likewise
        self.largest = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        result = self._bound(func, args, kwargs or {})
        if not _touches_floats(args):
            return result
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.numel():
                self._within(func, tensor)
        return result

    def _bound(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        packet = func.overloadpacket
        if packet in _SUBTRACTING:
            return _SUBTRACTING[packet](*args, **kwargs)
        if packet in _PASSING:
            return args[_PASSING[packet]].clone()
        if packet in _NORMS:
            return _norm_magnitude(*args)
        if packet is aten.native_batch_norm_backward:
            return _norm_backward_magnitude(*args)
        if packet is aten.mean:
            return _mean_of_one(func(*args, **kwargs), args[0])
        if packet is aten.div and args[1] == 1:
            return args[0].clone()
        if packet in _SCALED and _touches_floats(args):
            args = tuple(_absolute(a) for a in args)
            kwargs = {name: _absolute(value) for name, value in kwargs.items()}
        if packet in _EXACT or func.is_view or not _touches_floats(args):
            return func(*args, **kwargs)
        raise NotApplicable(f"{packet} is not exact on integers{_where()}")

    def _within(self, func: Any, tensor: Tensor) -> None:
        if not torch.equal(tensor, tensor.round()):
            raise NotApplicable(f"{func.overloadpacket} leaves the integers{_where()}")
        if float(tensor.min()) < 0:
            raise NotApplicable(f"{func.overloadpacket} has a negative result where all should be sizes{_where()}")
        self.largest = max(self.largest, float(tensor.max()))


def _mean_of_one(result: Tensor, x: Tensor) -> Tensor:
    if result.numel() != x.numel():
        raise NotApplicable(f"a mean over {x.numel() // max(1, result.numel())} is not exact on integers{_where()}")
    return result


def _where() -> str:
    place = current_submodule()
    return f", in {place}" if place else ""


def _absolute(value: Any) -> Any:
    """The size of a number; the module's own tensors are sizes already."""
    return abs(value) if isinstance(value, float | int) and not isinstance(value, bool) else value


def _touches_floats(args: tuple[Any, ...]) -> bool:
    return any(isinstance(a, Tensor) and a.is_floating_point() for a in args)


def _norm_magnitude(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    *rest: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """(|x| + |mean|) · |scale| + |bias|, for a norm in evaluation mode."""
    if mean is None or variance is None or rest[0] is True:
        raise NotApplicable(f"batch statistics are no integers{_where()}")
    shape = (1, -1, *[1] * (x.dim() - 2))
    shifted = (x + mean.view(shape)) * _scale(weight, variance, shape)
    result = shifted if bias is None else shifted + bias.view(shape)
    return result, x.new_zeros(0), x.new_zeros(0)


def _norm_backward_magnitude(
    gradient: Tensor, x: Tensor, weight: Tensor | None, _: Any, variance: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """|gradient| · |scale|, for a norm in evaluation mode."""
    if variance is None or rest[2] is True:
        raise NotApplicable(f"batch statistics are no integers{_where()}")
    shape = (1, -1, *[1] * (x.dim() - 2))
    return gradient * _scale(weight, variance, shape), x.new_zeros(0), x.new_zeros(0)


def _scale(weight: Tensor | None, variance: Tensor, shape: tuple[int, ...]) -> Tensor:
    """What a norm multiplies by; its eps is lost beside these variances."""
    return (variance.rsqrt() if weight is None else weight * variance.rsqrt()).view(shape)


def _add_instead(x: Tensor, y: Tensor | float, *, alpha: float = 1) -> Tensor:
    return x + (y if isinstance(y, Tensor) else abs(y)) * abs(alpha)


_SUBTRACTING: dict[Any, Callable[..., Tensor]] = {
    aten.sub: _add_instead,
    aten.rsub: _add_instead,
    aten.sub_: lambda x, y, *, alpha=1: x.copy_(_add_instead(x, y, alpha=alpha)),
    aten.neg: lambda x: x.clone(),
}
# Never greater than one of their arguments; the number says which.
_PASSING = {aten.relu: 0, aten.hardtanh: 0, aten.threshold_backward: 0, aten.hardtanh_backward: 0}
_NORMS = {
    aten.native_batch_norm,
    aten._native_batch_norm_legit,
    aten._native_batch_norm_legit_no_training,
    aten._batch_norm_with_update,
    aten._batch_norm_no_update,
}
# Those that take numbers, which a module writes with their signs.
_SCALED = {aten.add, aten.add_, aten.mul, aten.mul_, aten.addmm}
_EXACT = {
    aten.convolution,
    aten.convolution_backward,
    aten.mm,
    aten.bmm,
    aten.addmm,
    aten.add,
    aten.add_,
    aten.mul,
    aten.mul_,
    aten.sum,
    aten.cat,
    aten.stack,
    aten.clone,
    aten.copy_,
    aten.detach,
    aten.detach_,
    aten.relu_,
    aten.constant_pad_nd,
    aten.max_pool2d_with_indices,
    aten.max_pool2d_with_indices_backward,
    aten.empty_like,
    aten.zeros_like,
    aten.new_zeros,
    aten.zero_,
    aten.fill_,
}
