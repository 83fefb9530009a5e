"""Floats are rationals: v = m · 2^e has exactly one residue, and that is what is embedded.

Nothing is rounded. A chunk of values whose significands fit one common unit 2^low, all |v| < 2^(low + 52), is an
integer vector times that unit: two digits to base 2^26 and one matrix product with the residues of 2^low and
2^(low + 26) give sums below 2^47, one reduction. A chunk with a wider range looks the powers of two up, element by
element. Chunks are small enough to stay in cache.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from equivalence.arithmetic.errors import NonFiniteValue
from equivalence.arithmetic.field.bound import Bound

if TYPE_CHECKING:
    from equivalence.arithmetic.field.modulus import Modulus

CHUNK = 1 << 14
DIGIT = 26


def _power_of_two(modulus: Modulus, exponent: int) -> Tensor:
    return modulus.residues(1 << exponent) if exponent >= 0 else modulus.residues(1, 1 << -exponent)


def significand_bits(dtype: torch.dtype) -> int:
    return 1 - int(math.log2(torch.finfo(dtype).eps))


def embed(modulus: Modulus, values: Tensor, name: str) -> tuple[Tensor, Bound]:
    """Residues (K, N) of a flat floating tensor, and the bound of its elements."""
    precision = significand_bits(values.dtype)
    values = values.to(torch.float64)
    if not bool(torch.isfinite(values).all()):
        raise NonFiniteValue(name, float(values[~torch.isfinite(values)][0]))
    out = torch.empty(modulus.count, values.numel(), dtype=torch.float64)
    bound: Bound | None = None
    for start in range(0, values.numel(), CHUNK):
        chunk = values[start : start + CHUNK]
        part = _embed_chunk(modulus, chunk, precision, out[:, start : start + CHUNK])
        bound = part if bound is None else bound.union(part)
    return out, bound or Bound()


def _embed_chunk(modulus: Modulus, values: Tensor, precision: int, out: Tensor) -> Bound:
    size = values.abs()
    largest = float(size.max())
    if largest == 0.0:
        out.zero_()
        return Bound()
    if float(size.min()) == 0.0:
        size = torch.where(size == 0.0, largest, size)
    high = math.frexp(largest)[1]
    low = math.frexp(float(size.min()))[1] - precision
    if high - low <= 2 * DIGIT and low > -960 and high < 960:
        upper = torch.mul(values, 2.0 ** (-low - DIGIT)).round_()
        lower = torch.sub(values * 2.0**-low, upper, alpha=2.0**DIGIT)
        powers = [_power_of_two(modulus, low + DIGIT), _power_of_two(modulus, low)]
        torch.mm(torch.stack(powers, 1), torch.stack([upper, lower]), out=out)
    else:
        out.copy_(_by_exponent(modulus, values))
    modulus.reduce_(out)
    return Bound(0, float(high), float(low))


def _by_exponent(modulus: Modulus, values: Tensor) -> Tensor:
    """Unreduced residues (below 2^48) of values of any exponents."""
    mantissa, exponent = _frexp(values)
    first = int(exponent.min())
    last = int(exponent.max()) + DIGIT
    table = torch.stack([_power_of_two(modulus, e) for e in range(first, last + 1)], 1)
    upper = torch.mul(mantissa, 2.0**-DIGIT).round_()
    lower = torch.sub(mantissa, upper, alpha=2.0**DIGIT)
    index = exponent - first
    result = torch.mul(table[:, index], lower)
    return result.addcmul_(table[:, index + DIGIT], upper)


def _frexp(values: Tensor) -> tuple[Tensor, Tensor]:
    """Integers m with |m| <= 2^53 and exponents e with values = m · 2^e; zeros get e = 0."""
    small = values.abs() < 2.0**-900  # lifted out of the subnormal range first, which is exact
    mantissa, exponent = torch.frexp(torch.where(small, values * 2.0**600, values))
    exponent = exponent.to(torch.int64) - 53 - 600 * small.to(torch.int64)
    return mantissa * 2.0**53, torch.where(values == 0.0, 0, exponent)
