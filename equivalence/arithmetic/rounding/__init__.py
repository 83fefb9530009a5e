"""Running error analysis: every number is a value with a rigorous bound, see `tensor` and
`precision`.
"""

from equivalence.arithmetic.rounding import (  # noqa: F401  # importing registers the rules
    activations,
    batch_norm,
    bilinear,
    casting,
    compare,
    convolution,
    elementary,
    factories,
    functions,
    indexing,
    layer_norm,
    pooling,
    reduction,
    refused,
    selection,
    spreading,
)
from equivalence.arithmetic.rounding.tensor import Rounding, RoundingTensor

__all__ = ["Rounding", "RoundingTensor"]
