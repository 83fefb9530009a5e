"""What the tests of the field share: integers as tensors, and a field whose random functions are the actual ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from equivalence.arithmetic.field import Field, FieldTensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def integers(*shape: int, seed: int = 0, limit: int = 6, scale: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-limit, limit + 1, shape, generator=generator)
    return (values * scale).to(torch.float64)


def actual_field(primes: int = 3, seed: int = 1) -> Field:
    """On small integers every residue is the integer itself, so step and maximum can be the actual ones."""
    field = Field(seed, primes, dtype=torch.float64)
    half = torch.tensor([-(p - 1) // 2 for p in field.modulus.primes], dtype=torch.float64).view(-1, 1)

    def value(name: str, flat: Tensor) -> Tensor:
        ones = torch.ones(field.count, flat.shape[1], dtype=torch.float64)
        if name == "step":
            return half * ones
        if name == "zero":
            return 0 * ones
        raise LookupError(f"{name} has no actual values on integers")

    field.functions.value = value  # type: ignore[method-assign]
    return field


def assert_residues_of(result: FieldTensor, expected: Tensor) -> None:
    """The field's result is the exact residue of a result that floats computed without rounding."""
    assert isinstance(result, FieldTensor)
    assert tuple(result.shape) == tuple(expected.shape)
    assert torch.equal(result.arithmetic.embed(expected.to(torch.float64)).parts, result.detach().parts)


def assert_like_torch(field: Field, function: Callable[..., Any], inputs: Sequence[Tensor], scale: int = 1) -> None:
    """Value and gradients of a function, in the field and in torch's float64 on numbers that are never rounded."""
    plain = [t.clone().requires_grad_() for t in inputs]
    lifted = [field.embed(t).requires_grad_() for t in inputs]
    expected, result = function(*plain), function(*lifted)
    assert_residues_of(result, expected.detach())
    if not expected.requires_grad:
        return
    cotangent = integers(*expected.shape, seed=99, scale=scale)
    expected_grads = torch.autograd.grad(expected, plain, cotangent, allow_unused=True)
    grads = torch.autograd.grad(result, lifted, field.embed(cotangent), allow_unused=True)
    for grad, want in zip(grads, expected_grads, strict=True):
        assert (grad is None) == (want is None)
        if want is not None:
            assert_residues_of(grad, want)
