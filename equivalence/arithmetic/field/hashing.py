"""Random functions of the tuple of all K residues, and the sign that makes them even or odd.

`RandomFunctions.value(name, t)` gives K residues, each uniform, that depend on nothing but the run's seed, the
function's name (operation and attributes) and the K residues of each argument: equal arguments give equal values
in any shape, layout or batch position.

Three steps, each keyed by the seed.
1. A universal hash without any 64-bit bottleneck: two linear forms u, v of the n residues of the argument with
   uniform coefficients in [-2^b, 2^b), b = 50 - 20 - ceil(log2 n), separately for each prime. Sums stay below
   2^50, so float64 adds them exactly; the pad 3·2^51 brings the sum into [2^52, 2^53), where the bit pattern of a
   float64 *is* the integer. Two different arguments agree in u and v with probability at most 2^(-2b-2), as one
   coefficient that meets a non-zero difference is determined by the others.
2. z = u + A v + C modulo 2^64, A odd and C belonging to the function's name. If (u, v) differ, z agrees for at most
   gcd(v - v', 2^64) of the 2^63 odd A, and v - v' is itself a random form: all in all a pair collides at one prime
   with probability below 2^-COLLISION_BITS.
3. A finaliser in the style of murmur: z ^= z >> 32, z *= odd, z ^= z >> 29, z *= odd, and the top bits scaled to
   [-p/2, p/2]. The shifts are arithmetic, which folds the sign bit in: each is at most two-to-one, on a 64-bit
   state of which 21 bits are used. This step is modelled as a random function; everything else is proved.

`sign(t)` is the sign of the first residue that is not zero, so sign(-t) = -sign(t), and |t| = sign(t)·t is one
representative of {t, -t}.
"""

from __future__ import annotations

import hashlib
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from equivalence.arithmetic.field.modulus import Modulus

COLLISION_BITS = 48
EXPOSE = 3.0 * 2.0**51  # added to integers below 2^50 in size, it leaves them in the bit pattern

Words = NDArray[np.int64]
Floats = NDArray[np.float64]


class _Keys(NamedTuple):
    pad: Words  # (K, 1), added
    mix: tuple[Words, Words, Words]  # (K, 1), odd


class RandomFunctions:
    """Computed by NumPy, whose overhead per operation is a third of torch's; most tensors here are tiny."""

    def __init__(self, modulus: Modulus, seed: int) -> None:
        self._count = modulus.count
        self._seed = seed
        self._keys: dict[str, _Keys] = {}
        self._forms: dict[int, Floats] = {}
        self._lexicographic = np.ldexp(1.0, -22 * np.arange(self._count)).reshape(1, -1)
        primes = np.array(modulus.primes, dtype=np.float64).reshape(-1, 1)
        # Slightly less than p / 2^64, so that rounding never reaches (p + 1) / 2.
        self._scale = primes * (2.0**-64 * (1 - 2.0**-40))

    def _words(self, what: str, count: int) -> Words:
        digest = hashlib.shake_256(f"{self._seed}/{what}".encode()).digest(8 * count)
        return np.frombuffer(digest, dtype=np.int64)

    def _key(self, name: str) -> _Keys:
        keys = self._keys.get(name)
        if keys is None:
            pad, *mix = self._words(f"function/{name}", 4 * self._count).reshape(4, -1, 1)
            first, second, third = (m | 1 for m in mix)
            keys = self._keys[name] = _Keys(pad, (first, second, third))
        return keys

    def _form(self, inputs: int) -> Floats:
        """Coefficients (2 K, inputs) of the linear forms."""
        form = self._forms.get(inputs)
        if form is None:
            rows = 2 * self._count
            bits = 50 - 20 - math.ceil(math.log2(inputs))
            words = self._words(f"forms/{inputs}", rows * inputs)
            form = self._forms[inputs] = (words >> (63 - bits)).astype(np.float64).reshape(rows, inputs)
        return form

    def value(self, name: str, flat: Floats) -> Floats:
        """Residues (K, N) from arguments (n, N), n = K times the number of arguments."""
        pad, (first, second, third) = self._key(name)
        forms = self._form(flat.shape[0]) @ flat
        forms += EXPOSE
        u, v = forms.view(np.int64).reshape(2, self._count, -1)
        v *= first
        v += u
        v += pad
        np.right_shift(v, 32, out=u)
        v ^= u
        v *= second
        np.right_shift(v, 29, out=u)
        v ^= u
        v *= third
        result = v * self._scale
        return np.rint(result, out=result)

    def sign(self, flat: Floats) -> Floats:
        """-1, 0 or 1, shape (1, N): the leading non-zero residue outweighs all later ones."""
        total = self._lexicographic @ flat
        return np.sign(total, out=total)
