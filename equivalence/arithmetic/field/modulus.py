"""Exact arithmetic modulo K primes at once, on float64 tensors of shape (K, …).

A residue r of p is centred, |r| <= (p - 1) / 2 < 2^20, and stored as a float64 integer. A product of two is below
2^40, so a sum of 2^13 products is below 2^53 and float64 computes it without rounding, in any order, with or
without fused multiply-add: torch's own float64 kernels do the work.

Reduction is r = y - p · round(y · (1/p)). With u = 2^-53, fl(1/p) and the product are each off by a factor within
1 ± u, so fl(y · fl(1/p)) is off by at most |y/p| · (2u + u²). As p is odd, y/p is an odd multiple of 1/(2p) away
from the nearest half-integer, hence more than 2^-22 away. If |y| <= 2^49 then |y/p| <= 2^29 and the error is
below 2^-22 (2^29 · (2^-52 + 2^-106) = 2^-23 + 2^-77): the rounding goes to the nearest integer, so one step gives
the centred residue. If |y| <= 2^53 the error is below 2^-18, the quotient is off by at most one, the remainder is
below p (1/2 + 2^-18), and a second step is exact by the first case. The products p · q and the difference are
integers below 2^53 + p, exact as well. Negative zero never survives a step: y - p · q = 0 is computed as a sum of
terms of opposite sign or of zeros with a positive one among them, except for y = -0, which the hash tolerates by
adding its pad.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

RESIDUE = 2.0**20  # bounds a centred residue
PRODUCT = 2.0**40  # … and a product of two
EXACT = 2.0**53  # integers up to here are exact in float64
ONE_STEP = 2.0**49  # … and up to here are reduced in one step
PRODUCT_TERMS = 1 << 13  # products that may be summed without rounding
MAX_DIM = 12


class Modulus:
    """The primes of a run, shaped for tensors of every number of dimensions."""

    def __init__(self, primes: Sequence[int]) -> None:
        self.primes = tuple(primes)
        self.count = len(self.primes)
        values = torch.tensor(self.primes, dtype=torch.float64)
        shapes = [(self.count,) + (1,) * d for d in range(MAX_DIM)]
        self._negative = [(-values).view(s) for s in shapes]  # indexed by the tensor's own dimensions
        self._inverse = [(1.0 / values).view(s) for s in shapes]

    def reduce_(self, y: Tensor) -> Tensor:
        """The centred residues of integers up to 2^49, in place."""
        d = y.dim() - 1
        q = torch.mul(y, self._inverse[d]).round_()
        return y.addcmul_(q, self._negative[d])

    def reduce_sized_(self, y: Tensor, size: float) -> Tensor:
        """The centred residues of integers up to `size` (at most 2^53), in place."""
        y = self.reduce_(y)
        return y if size <= ONE_STEP else self.reduce_(y)

    def mul(self, a: Tensor, b: Tensor) -> Tensor:
        return self.reduce_(torch.mul(a, b))

    def bmm_raw(self, a: Tensor, b: Tensor) -> tuple[Tensor, float]:
        """Batched matrix product, the batch being primes (times groups): not reduced, and its size."""
        terms = a.shape[-1]
        if terms <= PRODUCT_TERMS:
            return torch.bmm(a, b), terms * PRODUCT
        total = a.new_zeros(a.shape[0], a.shape[1], b.shape[2])
        for start in range(0, terms, PRODUCT_TERMS):
            part = slice(start, start + PRODUCT_TERMS)
            chunk = torch.bmm(a[..., part], b[:, part])
            self.reduce_sized_(chunk.view(self.count, -1), EXACT)
            total += chunk
        return total, float(terms * RESIDUE)

    def bmm(self, a: Tensor, b: Tensor) -> Tensor:
        """The same, reduced."""
        y, size = self.bmm_raw(a, b)
        self.reduce_sized_(y.view(self.count, -1), size)
        return y

    def sum(self, x: Tensor, dims: list[int], keepdim: bool) -> Tensor:
        """The sum over dims of the whole (K, …) tensor: up to 2^29 residues at once are below 2^49."""
        return self.reduce_(x.sum(dims, keepdim=keepdim))

    def broadcastable(self, x: Tensor, dims: int) -> Tensor:
        """Residues of a tensor, shaped to broadcast against one of `dims` dimensions."""
        missing = dims + 1 - x.dim()
        if missing <= 0:
            return x
        return x.reshape(self.count, *(1,) * missing, *x.shape[1:])

    def residues(self, numerator: int, denominator: int = 1) -> Tensor:
        """The centred residues of a fraction, shape (K,); the denominator must be a unit for every prime."""
        out = []
        for p in self.primes:
            r = numerator % p
            if denominator != 1:
                r = r * pow(denominator, -1, p) % p
            out.append(float(r - p if 2 * r > p else r))
        return torch.tensor(out, dtype=torch.float64)
