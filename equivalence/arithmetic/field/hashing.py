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
2. z = (u + A v + C) ^ (A' u >> 32) modulo 2^64, with A, A' odd and C belonging to the function's name. Let (u, v)
   differ, and let 2^s be the greatest power of two that divides all differences of the residues. If u does not
   differ, z does, as A (v - v') is not 0. Otherwise v - v' is 2^s times a form that is uniform modulo powers of two
   up to 2^b, so u + A v changes by a given amount with probability at most (b + 2) 2^(s - 63); as C is uniform the
   same bounds its change under exclusive or. The change needed is that of A' u >> 32, whose s lowest bits must not
   change, for which the odd A' leaves a chance of about 2^-s. All in all a pair collides at one prime with
   probability at most 2^(-2b-2) + (b + 2) 2^-62, below 2^-COLLISION_BITS up to n = 128. (Without A' u the low s
   bits of z would be common.)
3. A finaliser in the style of murmur: z ^= z >> 32, z *= odd, z ^= z >> 29, z *= odd, and the top bits scaled to
   [-p/2, p/2]. The shifts are arithmetic, which folds the sign bit in: each is at most two-to-one, on a 64-bit
   state of which 21 bits are used. This step is modelled as a random function; everything else is proved.

`sign(t)` is the sign of the first residue that is not zero, so sign(-t) = -sign(t), and |t| = sign(t)·t is one
representative of {t, -t}.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from equivalence.arithmetic.field.modulus import Modulus

COLLISION_BITS = 48
EXPOSE = torch.tensor(
    3.0 * 2.0**51, dtype=torch.float64
)  # added to integers below 2^50 in size, it leaves them in the bit pattern

Words = NDArray[np.int64]


class _Keys(NamedTuple):
    pad: Words  # (K, 1), added
    mix: tuple[Words, Words, Words, Words]  # (K, 1), odd


class RandomFunctions:
    """Bits are mixed by NumPy, whose overhead per operation is a third of torch's; most tensors here are tiny."""

    def __init__(self, modulus: Modulus, seed: int) -> None:
        self._count = modulus.count
        self._seed = seed
        self._keys: dict[str, _Keys] = {}
        self._forms: dict[int, Tensor] = {}
        self._lexicographic = torch.tensor([[2.0 ** (-22 * k) for k in range(self._count)]], dtype=torch.float64)
        primes = np.array(modulus.primes, dtype=np.float64).reshape(-1, 1)
        # Slightly less than p / 2^64, so that rounding never reaches (p + 1) / 2.
        self._scale = primes * (2.0**-64 * (1 - 2.0**-40))

    def _words(self, what: str, count: int) -> Words:
        digest = hashlib.shake_256(f"{self._seed}/{what}".encode()).digest(8 * count)
        return np.frombuffer(digest, dtype=np.int64)

    def _key(self, name: str) -> _Keys:
        keys = self._keys.get(name)
        if keys is None:
            pad, *mix = self._words(f"function/{name}", 5 * self._count).reshape(5, -1, 1)
            zeroth, first, second, third = (m | 1 for m in mix)
            keys = self._keys[name] = _Keys(pad, (zeroth, first, second, third))
        return keys

    def _form(self, inputs: int) -> Tensor:
        """Coefficients (2 K, inputs) of the linear forms."""
        form = self._forms.get(inputs)
        if form is None:
            rows = 2 * self._count
            bits = 50 - 20 - math.ceil(math.log2(inputs))
            words = self._words(f"forms/{inputs}", rows * inputs)
            values = (words >> (63 - bits)).astype(np.float64).reshape(rows, inputs)
            form = self._forms[inputs] = torch.from_numpy(values)
        return form

    def value(self, name: str, flat: Tensor) -> Tensor:
        """Residues (K, N) from arguments (n, N), n = K times the number of arguments."""
        pad, (zeroth, first, second, third) = self._key(name)
        forms = torch.addmm(EXPOSE, self._form(flat.shape[0]), flat).numpy()
        u, v = forms.view(np.int64).reshape(2, self._count, -1)
        v *= first
        v += u
        v += pad
        u *= zeroth
        u >>= 32
        v ^= u
        np.right_shift(v, 32, out=u)
        v ^= u
        v *= second
        np.right_shift(v, 29, out=u)
        v ^= u
        v *= third
        result = v * self._scale
        return torch.from_numpy(np.rint(result, out=result))

    def sign(self, flat: Tensor) -> Tensor:
        """-1, 0 or 1, shape (1, N): the leading non-zero residue outweighs all later ones."""
        return torch.mm(self._lexicographic, flat).sign_()
