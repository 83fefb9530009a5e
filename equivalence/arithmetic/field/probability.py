"""The probability that a proof in the field is wrong, derived and computed.

**Setting.** A run evaluates expressions built from rational constants, variables, ring operations (including
division by given integers) and function applications f(t1, …). Two expressions are *equal* if they are equal in
every commutative ring over the rationals under every interpretation of the function symbols (congruence), so
equality implies equality of the real functions. Replace, from the inside out, each application by a fresh variable,
equal applications by the same one: every expression becomes a polynomial over the rationals, equal expressions
become equal polynomials, and unequal ones different polynomials.

**What can go wrong.** In the *ideal* run the variables of different applications are independent and uniform for each
prime. The actual run differs from it only if two applications of one function, with arguments unequal as
expressions, receive arguments equal modulo all K primes. Step and zero identify t with -t and single out 0, so for
a pair of queries both t - u and t + u, and for a query t itself, must be non-zero polynomials that do not vanish:
with Q queries at most Q (Q - 1) + Q = Q² polynomials. One more is the difference of two outputs which are unequal:
if the verdict "equal" is wrong there is one; outputs, above all gradients, may be far larger than arguments, so
their bound is kept apart. By the union bound it suffices to bound the probability that one given
non-zero polynomial f vanishes at the random point modulo all primes. (Several arguments: if the tuples differ, one
coordinate does, and that one is the polynomial. The residues of a max-pool window's multiset are a sum of fresh
variables and differ as polynomials when the multisets do, because multiplicities are below p.)

**One polynomial.** The books keep the union of all bounds of arguments, and that of all outputs: the greatest L1
norm 2^high, a common unit 2^low and a common denominator. A difference (or sum) f of two of the polynomials, times
2^-low · denominator, has integer coefficients below 2^B, B = high + 1 - low + log2(denominator), not all of them
zero. For one prime p drawn from a pool of n primes above 2^20:
* p divides a given non-zero coefficient with probability at most (B / 20) / n;
* otherwise f is non-zero modulo p, of degree at most D, and vanishes at a uniform point with probability at most
  D / p <= D / 2^20 (Schwartz-Zippel; Z/p is a field, and zero divisors of the product of the primes do not matter,
  as each prime is judged by itself and functions are keyed by the whole tuple);
* or the random functions' hash (`hashing`) failed at this prime: some pair among the Q queries collides with
  probability at most Q² / 2 · 2^-COLLISION_BITS, and this is independent for each prime.
The point is drawn independently for each prime. Primes are drawn without replacement; for a symmetric product of
non-negative numbers this only lowers the mean (Maclaurin's inequality). So f vanishes modulo all K primes with
probability at most e^K, e = D / 2^20 + (B / 20) / n + Q² / 2^(COLLISION_BITS + 1), and

    probability of error <= Q² · e^K + e'^K,

e' being that of the outputs.

Residues of variables are uniform up to 2^-32 (relative), which the gap between 2^20 and the smallest prime,
2^20 + 7, more than pays for. Modelled, not proved: that the keyed finaliser behaves as a random function, and that
NumPy's PCG64 and SHAKE-256 are random.

Q, D and B are counted while the run goes on, for all arguments of functions and for the outputs.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from equivalence.arithmetic.field import primes as prime_pool
from equivalence.arithmetic.field.bound import Bound
from equivalence.arithmetic.field.hashing import COLLISION_BITS

if TYPE_CHECKING:
    from collections.abc import Iterable


class Books:
    """What a run has to remember to know its probability of error."""

    __slots__ = ("_lower", "_pool", "_primes", "_union", "queries")

    def __init__(self, primes: int, prime_range: tuple[int, int]) -> None:
        self._primes = primes
        self._lower = prime_range[0]
        self._pool = len(prime_pool.pool(*prime_range))
        self._union = Bound(degree=1)
        self.queries = 0

    def query(self, count: int, arguments: Iterable[Bound]) -> None:
        """So many applications of a random function to arguments of this size."""
        self.queries += count
        for bound in arguments:
            self._union.absorb(bound)

    def log2_error(self, outputs: Iterable[Bound]) -> float:
        squared = float(self.queries) ** 2
        terms = self._terms(outputs, squared)
        return min(0.0, math.log2(sum(many * one**self._primes for many, one in terms)))

    def primes_needed(self, log2_error: float, queries: float, outputs: Iterable[Bound]) -> float:
        """How many primes would keep a run of so many queries below that probability; infinite if none would."""
        needed = 1.0
        for many, one in self._terms(outputs, queries**2):
            # Each of both terms may take a half.
            enough = (math.log2(many) + 1 - log2_error) / -math.log2(one) if one < 1.0 else math.inf
            needed = max(needed, enough)
        return needed if math.isinf(needed) else math.ceil(needed)

    def _terms(self, outputs: Iterable[Bound], squared_queries: float) -> tuple[tuple[float, float], ...]:
        """How many polynomials there are, and how likely one vanishes modulo one prime: arguments, then outputs."""
        largest = Bound(degree=1)
        for bound in outputs:
            largest = largest.union(bound)
        return (
            (max(1.0, squared_queries), self._one(self._union, squared_queries)),
            (1.0, self._one(largest, squared_queries)),
        )

    def _one(self, union: Bound, squared_queries: float) -> float:
        """The probability that one polynomial vanishes modulo one prime."""
        vanishing = union.degree / self._lower
        divided = max(0.0, union.bits + 1) / math.log2(self._lower) / self._pool
        collided = squared_queries * 2.0 ** -(COLLISION_BITS + 1)
        return min(1.0, vanishing + divided + collided)
