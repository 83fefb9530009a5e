"""Independent uniform residues, which can be had piece by piece.

Guarantee: an element's residues depend on the run's seed, the key and the place of the element alone, so it makes no
difference in which pieces they are asked for, or whether they are asked for again. The generator can jump to any
place of its stream (PCG64: O'Neill 2014), in which residues are laid out by piece, then by prime. So a tensor of any
size need not exist as a whole.

A residue is floor(u · p) - (p - 1) / 2 for a u of 53 random bits.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from equivalence.arithmetic.field.modulus import Modulus

_CHUNK = 1 << 14  # numbers that stay in cache between the steps


class Deferred(Protocol):
    """Residues of a tensor that are made when they are asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""

    def residues(self) -> Tensor:
        """All of them, `(K, *shape)`."""

    def modulo(self, number: int) -> Tensor:
        """Those of one prime, `(1, *shape)`."""


class Draw:
    """Residues of a tensor, whose first axis numbers its pieces.

    Args:
        modulus: the primes, K of them.
        seed: of the run.
        key: which tensor of the run it is.
        shape: of the tensor, pieces first.
    """

    def __init__(self, modulus: Modulus, seed: int, key: str, shape: Sequence[int]) -> None:
        digest = hashlib.blake2b(f"{seed}/variables/{key}".encode(), digest_size=16).digest()
        self._seed = int.from_bytes(digest, "big")
        self._primes = np.array(modulus.primes, dtype=np.float64)
        self.pieces, self.rest = shape[0], tuple(shape[1:])
        self._size = math.prod(self.rest)

    def all(self) -> Tensor:
        """`(K, pieces, …)`."""
        drawn = self._drawn(0, self.pieces).movedim(0, 1)
        return drawn if self.pieces == 1 else drawn.contiguous()

    def piece(self, number: int) -> Tensor:
        """One piece, `(K, 1, …)`."""
        return self._drawn(number, 1).movedim(0, 1)

    def modulo(self, number: int) -> Tensor:
        """All pieces modulo one prime, `(1, pieces, …)`."""
        generator = self._generator(number * self._size)
        out = np.empty((self.pieces, self._size))
        for piece in out:
            _uniform(generator, piece, self._primes[number])
            generator.bit_generator.advance((len(self._primes) - 1) * self._size)  # type: ignore[attr-defined]  # PCG64
        return torch.from_numpy(out).view(1, self.pieces, *self.rest)

    def _drawn(self, first: int, pieces: int) -> Tensor:
        """So many pieces, `(pieces, K, …)`."""
        count = len(self._primes)
        generator = self._generator(first * count * self._size)
        if self._size < _CHUNK:
            out = generator.random((pieces, count, self._size))
            primes = self._primes[:, None]
            out *= primes
            np.floor(out, out)
            out -= (primes - 1) / 2
        else:
            out = np.empty((pieces, count, self._size))
            for piece in out:
                for row, prime in zip(piece, self._primes, strict=True):
                    _uniform(generator, row, prime)
        return torch.from_numpy(out).view(pieces, count, *self.rest)

    def _generator(self, start: int) -> np.random.Generator:
        stream = np.random.PCG64(self._seed)
        return np.random.Generator(stream.advance(start) if start else stream)


def _uniform(generator: np.random.Generator, row: NDArray[np.float64], prime: float) -> None:
    """Fill a row with centred residues of one prime."""
    for start in range(0, row.size, _CHUNK):
        chunk = row[start : start + _CHUNK]
        generator.random(out=chunk)
        chunk *= prime
        np.floor(chunk, chunk)
        chunk -= (prime - 1) / 2
