"""Hypothesis strategies for blocks: what they draw is valid, small, and shrinks to the smallest.

Guarantee: every strategy shrinks towards cardinality 1, width 1 and size 1. Tensors and weights
come from a drawn seed and a generator of their own, never from Hypothesis' arrays, whose repeated
fill value hides permutations. An impossible argument is `InvalidArgument`, which names value and
rule, at the call and not at the first example. Importing this imports no torch.
"""

from equivalence.testing.strategies.faults import faults
from equivalence.testing.strategies.modules import cases, forms, modules
from equivalence.testing.strategies.specs import block_specs
from equivalence.testing.strategies.tensors import input_shapes, inputs, seeds

__all__ = ["block_specs", "cases", "faults", "forms", "input_shapes", "inputs", "modules", "seeds"]
