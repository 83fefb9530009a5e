"""Random primes of 21 bits.

The modulus must be drawn, not fixed: modulo a fixed p there are different numbers, such as w and w + p, that
agree always. A random prime out of a pool of n primes above 2^20 divides a given non-zero integer below 2^B
with probability at most (B / 20) / n, because the integer has at most B / 20 prime factors above 2^20.
"""

from __future__ import annotations

import random
from functools import lru_cache

import numpy as np

LOWER, UPPER = 1 << 20, 1 << 21


@lru_cache(maxsize=8)
def pool(lower: int = LOWER, upper: int = UPPER) -> tuple[int, ...]:
    """All odd primes in [lower, upper), by one sieve of odd numbers."""
    sieve = np.ones(upper // 2, dtype=bool)  # sieve[i] stands for 2 i + 1
    sieve[0] = False
    for i in range(1, int(upper**0.5) // 2 + 1):
        if sieve[i]:
            sieve[2 * i * (i + 1) :: 2 * i + 1] = False
    odd = 2 * np.flatnonzero(sieve) + 1
    return tuple(odd[odd >= lower].tolist())


def draw(seed: int, count: int, lower: int = LOWER, upper: int = UPPER) -> tuple[int, ...]:
    """`count` distinct primes of the pool, the same for the same seed."""
    return tuple(random.Random(f"primes/{seed}").sample(pool(lower, upper), count))
