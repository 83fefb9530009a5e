"""The model of floating-point arithmetic behind every bound, and the arithmetic of the bounds
themselves.

*Standard model* (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., eq. 2.4 and 2.8):
with unit roundoff u and smallest subnormal number eta, a computed x op y, op one of + - * / sqrt,
is (x op y)(1 + d) + e with |d| <= u and |e| <= eta / 2, where e = 0 for + and -; a fused
multiply-add rounds once.

*Sums* (Rump, BIT 52, 2012; Jeannerod and Rump, SIAM J. Matrix Anal. Appl. 34, 2013): a dot product
of n terms has an error of at most n u sum |x_i| |y_i|, in any order, without restriction on n u.
This also holds for any mix of rounded and fused products: let an evaluation tree add l, of value
S_l = sum of |exact terms| and n_l leaves, and r likewise; the rounding of l + r is at most u |l +
r|, and at most |r| (|l|) if l (r) is a number of the format. If S_r <= u S_l then it is <= |r| <= u
S_l + (n_r - 1) u S_r <= n_r u S_l; if neither sum is below u times the other, then u |l + r| <= u
(S_l + S_r) + (n_l - 1) u^2 S_l + (n_r - 1) u^2 S_r <= n_r u S_l + n_l u S_r. By induction the
tree's error is at most (n - 1) u S; rounded products add u S. (Higham's gamma_n = n u / (1 - n u),
Lemma 3.1, needs n u < 1, which bfloat16 leaves at 256 terms.) Three more roundings are granted: a
bias, accumulation in a wider format, and a result that is stored before the bias is added. What
sums products otherwise (Winograd, FFT, TF32) is no conforming kernel.

*The bound's own rounding.* Bounds are float64 sums and products of nonnegative numbers, so each of
at most 30 roundings loses at most the factor 1 - 2^-53: results are multiplied by `SAFE`. Sums over
n terms lose up to n roundings: `safe(n)`. u is at least 2^-53, so the float64 evaluation of the
value itself is a conforming kernel too.

*Overflow.* A magnitude beyond half of the largest number makes the bound infinite: magnitudes are
scaled so that they overflow in float64 exactly then, and scaled back. An infinite or NaN bound says
nothing; no operation makes it finite again unless its result does not depend on the element.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

SAFE = 1.0 + 2.0**-48
DOUBLE = 2.0**-53
FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def safe(terms: int) -> float:
    """Covers the rounding of a float64 sum of so many nonnegative terms."""
    return 1.0 + (terms + 32) * 2.0**-52


@dataclass(frozen=True)
class Precision:
    """A format: unit roundoff, smallest subnormal and normal number, and the scale at which
    magnitudes overflow.
    """

    dtype: torch.dtype
    unit: float
    eta: float
    tiny: float
    headroom: float

    def charge(self, bound: Tensor, magnitude: Tensor, roundings: float) -> Tensor:
        """`bound` plus so many roundings of results up to `magnitude`; both are used up."""
        k = roundings * self.unit
        top = self.headroom * (1.0 + k)
        return bound.add_(magnitude.mul_(top), alpha=k / top).mul_(SAFE)

    def number(self, value: float) -> float:
        """The error of a Python number that a kernel converts to this format."""
        if not math.isfinite(value):
            return math.inf
        stored = float(torch.tensor(value, dtype=torch.float64).to(self.dtype))
        if stored == value:
            return 0.0
        return abs(value) * self.unit * SAFE + self.eta if math.isfinite(stored) else math.inf


def sum_units(terms: int) -> float:
    """The error of a dot product of so many terms, in units of u times the sum of magnitudes."""
    return float(terms + 3)


@lru_cache(maxsize=4096)
def number_error(value: float, precision: Precision) -> float:
    """`Precision.number`, remembered."""
    return precision.number(value)


@lru_cache(maxsize=8)
def precision_of(dtype: torch.dtype) -> Precision:
    """The properties of a simulated format."""
    if dtype not in FLOATS:
        names = ", ".join(str(d).removeprefix("torch.") for d in FLOATS)
        raise ValueError(f"{dtype} is no simulated format: choose one of {names}")
    info = torch.finfo(dtype)
    exponent = math.frexp(info.max)[1] - 1
    return Precision(
        dtype,
        info.eps / 2,
        info.smallest_normal * info.eps,
        info.smallest_normal,
        2.0 ** (1024 - exponent),
    )


# Counts and masks are exact while float64 holds them; beyond that nothing is claimed.
INTEGERS = Precision(torch.float64, 0.0, 0.0, 0.0, 2.0**972)
