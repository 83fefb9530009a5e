"""Residues modulo random primes: agreement of two modules is a proof for every input, see `tensor.Field`."""

from equivalence.arithmetic.field import (  # noqa: F401  # importing registers the rules
    average,
    compare,
    convolution,
    factories,
    linear,
    maximum,
    normalisation,
    opaque,
    ring,
    step,
)
from equivalence.arithmetic.field.tensor import Field, FieldTensor

__all__ = ["Field", "FieldTensor"]
