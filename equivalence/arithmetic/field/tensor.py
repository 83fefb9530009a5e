"""The field: a run's primes, random functions, constants and books, and the tensor whose elements are residues.

A value is a rational expression known modulo K random primes. Ring operations are exact; every other function is a
random function of its argument's residues. Two programs that agree at random points are equal as expressions built
from ring operations and *arbitrary* functions of the same names, hence equal for the actual ones and every real
input, except with the probability derived in `probability`.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from equivalence.arithmetic.errors import NonFiniteValue, RedrawPrimes, UnsupportedOperation
from equivalence.arithmetic.field import primes as prime_pool
from equivalence.arithmetic.field.bound import VARIABLE, Bound
from equivalence.arithmetic.field.draw import Deferred, Draw
from equivalence.arithmetic.field.embedding import embed
from equivalence.arithmetic.field.hashing import RandomFunctions
from equivalence.arithmetic.field.modulus import Modulus
from equivalence.arithmetic.field.origin import ZERO, Origin
from equivalence.arithmetic.field.probability import Books
from equivalence.arithmetic.stacked import Arithmetic, StackedTensor, _make_wrapper

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Number = int | float | Fraction


class Field(Arithmetic):
    """One run: everything is a function of `seed`, `primes` (how many) and the order of nothing.

    `dtype` is the precision of the modules: casts to it or to a more precise one keep the value, casts to a coarser
    one round and are a random function. `prime_range` is for tests of the probability of error.
    """

    def __init__(
        self,
        seed: int = 0,
        primes: int = 9,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        *,
        prime_range: tuple[int, int] = (prime_pool.LOWER, prime_pool.UPPER),
    ) -> None:
        self.seed = seed
        self.dtype = dtype
        self.device = torch.device(device)
        self.modulus = Modulus(prime_pool.draw(seed, primes, *prime_range))
        self.count = primes
        self.functions = RandomFunctions(self.modulus, seed)
        self.books = Books(primes, prime_range)
        self._numbers: dict[Any, tuple[Tensor, Bound]] = {}

    # -- values that enter ---------------------------------------------------------------------------------------

    def variables(self, shape: Sequence[int], key: str, dtype: torch.dtype | None = None) -> FieldTensor:
        """Independent uniform residues, the same for the same seed and key, whichever module asks."""
        return self.wrap(self.draw((1, *shape), key).piece(0)[:, 0], VARIABLE.copy(), dtype or self.dtype)

    def draw(self, shape: Sequence[int], key: str) -> Draw:
        """Residues of variables that can be had piece by piece, the first axis being that of pieces."""
        return Draw(self.modulus, self.seed, key, shape)

    def deferred(self, residues: Deferred, dtype: torch.dtype) -> FieldTensor:
        """Variables whose residues are had when they are used; a product with them need not keep them."""
        made: FieldTensor = _make_wrapper(FieldTensor, residues.shape, dtype=dtype, device=self.device)
        made.arithmetic = self
        made.deferred = residues
        made.size_of_raw = DEFERRED
        made.state = VARIABLE.copy()
        return made

    def embed(self, tensor: Tensor, name: str = "a constant") -> FieldTensor:
        """The exact residues of a plain floating tensor."""
        embedded: FieldTensor = self.embed_all({name: tensor})[name]
        return embedded

    def embed_all(self, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """Every floating tensor of a state dict in one pass; others are returned as they are."""
        result: dict[str, Any] = dict(tensors)
        names = [n for n, t in tensors.items() if t.is_floating_point()]
        if not names:
            return result
        precise = max((tensors[n].dtype for n in names), key=lambda d: -torch.finfo(d).eps)
        with torch.no_grad():
            flat = [tensors[n].reshape(-1) for n in names]
            joined = (flat[0] if len(flat) == 1 else torch.cat(flat)).to("cpu", precise)
        try:
            residues, bound = embed(self.modulus, joined, names[0])
        except NonFiniteValue:
            for n, t in zip(names, flat, strict=True):
                embed(self.modulus, t.to("cpu"), repr(n))  # raises, naming the culprit
            raise
        sizes = [t.numel() for t in flat]
        for n, part in zip(names, torch.split_with_sizes(residues, sizes, 1), strict=True):
            source = tensors[n]
            own = Bound(0, bound.high, bound.low, bound.denominator)
            result[n] = self.wrap(part.view(self.count, *source.shape), own, source.dtype)
        return result

    def random_like(self, tensors: Mapping[str, Tensor], key: str = "weights") -> dict[str, Any]:
        """A random residue for every element of the floating tensors; others are returned as they are."""
        return {
            n: self.variables(t.shape, f"{key}/{n}", t.dtype) if t.is_floating_point() else t
            for n, t in tensors.items()
        }

    def number(self, value: Number | bool) -> tuple[Tensor, Bound]:
        """Residues (K,) and bound of a Python number, exactly; remembered."""
        key = (type(value), value)
        found = self._numbers.get(key)
        if found is None:
            if isinstance(value, float) and not math.isfinite(value):
                raise NonFiniteValue("a Python number", value)
            if not isinstance(value, int | float | Fraction):
                raise UnsupportedOperation("embedding", f"{value!r} is not a real number")
            exact = Fraction(value)
            try:
                residues = self.modulus.residues(exact.numerator, exact.denominator)
            except ValueError as error:
                raise RedrawPrimes(f"{exact} has no residue modulo {self.modulus.primes}") from error
            found = self._numbers[key] = (residues, Bound.of_number(exact))
        return found

    def scalar(self, value: Number | bool, dims: int) -> tuple[Tensor, Bound]:
        """A number's residues, shaped to broadcast against a tensor of so many dimensions."""
        key = (type(value), value, dims)
        found = self._numbers.get(key)
        if found is None:
            residues, bound = self.number(value)
            found = self._numbers[key] = (residues.view(-1, *(1,) * dims), bound)
        return found

    def inverse(self, value: Number, dims: int) -> tuple[Tensor, Bound]:
        """1 / value exactly: dividing by a number is multiplying by its inverse modulo each prime."""
        if value == 0:
            raise UnsupportedOperation("division", "the divisor is the number 0")
        if isinstance(value, float) and not math.isfinite(value):
            raise NonFiniteValue("a divisor", value)
        return self.scalar(1 / Fraction(value), dims)

    def constant(self, value: Tensor | float, dtype: torch.dtype | None = None) -> Any:
        if isinstance(value, FieldTensor):
            return value
        if isinstance(value, Tensor) and value.dim() == 0:
            return self.constant(value.item(), value.dtype)
        if isinstance(value, Tensor):
            if value.is_floating_point():
                return self.embed(value)
            plain = value.to(torch.float64)  # integers and booleans below 2^53
            result = self.embed(plain)
            return self.wrap(result.parts, result.state, value.dtype)
        residues, bound = self.number(value)
        result = self.wrap(residues.clone(), bound.copy(), dtype or self.dtype)
        result.origin = ZERO if value == 0 else None
        return result

    # -- results ---------------------------------------------------------------------------------------------------

    def wrap(self, parts: Tensor, state: Bound, dtype: torch.dtype, size: float = 0.0) -> FieldTensor:
        """A tensor of these residues; if `size` is given they are not reduced yet, but at most that large."""
        made: FieldTensor = _make_wrapper(
            FieldTensor,
            parts.shape[1:],
            strides=parts.stride()[1:],
            storage_offset=parts.storage_offset(),
            dtype=dtype,
            device=self.device,
        )
        made.arithmetic = self
        made.raw = parts
        made.size_of_raw = size
        made.state = state
        return made

    def joined(self, tensors: Sequence[StackedTensor]) -> Bound:
        bound: Bound = tensors[0].state
        for t in tensors[1:]:
            bound = bound.union(t.state)
        return bound.copy()

    def random(self, name: str, *arguments: tuple[Tensor, Bound]) -> tuple[Tensor, Bound]:
        """The random function of this name at equally shaped (K, …) arguments, elementwise."""
        shape = arguments[0][0].shape
        flat = [parts.reshape(self.count, -1) for parts, _ in arguments]
        joined = flat[0] if len(flat) == 1 else torch.cat(flat)
        self.books.query(joined.shape[1], [bound for _, bound in arguments])
        return self.functions.value(name, joined).view(shape), VARIABLE

    def signed(self, name: str, parts: Tensor, bound: Bound) -> tuple[Tensor, Tensor]:
        """sign(t), shape (1, …), and the random function of |t|, shape (K, …)."""
        flat = parts.reshape(self.count, -1)
        self.books.query(flat.shape[1], (bound,))
        sign = self.functions.sign(flat)
        value = self.functions.value(name, flat * sign)
        return sign.view(1, *parts.shape[1:]), value.view(parts.shape)

    @property
    def queries(self) -> int:
        return self.books.queries

    def log2_error(self, *outputs: FieldTensor) -> float:
        """log2 of the probability that unequal outputs of this run were seen as equal; see `probability`."""
        return self.books.log2_error([t.state for t in outputs])

    def primes_needed(self, log2_error: float, *outputs: FieldTensor) -> float:
        """How many primes would do for this run and another module of the same size; infinite if none would."""
        return self.books.primes_needed(log2_error, 2.0 * self.queries, [t.state for t in outputs])


DEFERRED = math.inf  # the size of raw numbers that are not there


class FieldTensor(StackedTensor):
    """Residues of shape (K, *shape), float64, centred; see `Field`.

    Sums and matrix products leave reduction to the first reader: `raw` may hold integers up to `size_of_raw`
    (0 stands for centred residues), `parts` reduces them where they lie. Or there is no `raw` yet: `parts` has the
    residues made, once and for all, as they may be written to.
    """

    arithmetic: Field
    state: Bound
    raw: Tensor
    size_of_raw: float
    deferred: Deferred | None = None
    origin: Origin | None = None
    rules = Field.rules

    @property
    def parts(self) -> Tensor:  # type: ignore[override]
        if self.size_of_raw:
            if self.deferred is not None:
                self.raw, self.deferred = self.deferred.residues(), None
            else:
                self.arithmetic.modulus.reduce_sized_(self.raw, self.size_of_raw)
            self.size_of_raw = 0.0
        return self.raw

    def reduced(self) -> FieldTensor:
        """This tensor, its raw numbers being centred residues."""
        _ = self.parts
        return self

    @staticmethod
    def equal(  # type: ignore[override]  # of two tensors, with a guarantee that Tensor.equal does not give
        a: FieldTensor, b: FieldTensor
    ) -> bool:
        """Whether all elements have equal residues: a proof of equality up to `Field.log2_error(a, b)`."""
        if not (isinstance(a, FieldTensor) and isinstance(b, FieldTensor)):
            raise TypeError("FieldTensor.equal compares two field tensors")
        if a.arithmetic.modulus.primes != b.arithmetic.modulus.primes:
            raise ValueError("tensors of two runs have different primes: use one seed for both modules")
        return a.shape == b.shape and torch.equal(a.parts, b.parts)
