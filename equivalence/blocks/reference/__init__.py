"""The block in plain NumPy: an independent third opinion, in any number type NumPy can hold.

Guarantee: nothing here imports torch or shares code with the torch forms, so that when two forms
disagree, this says which of them is wrong. It is written to be read, not to be fast.
"""

from equivalence.blocks.reference.block import ReferenceResult, reference
from equivalence.blocks.reference.number_types import ReferenceInputError

__all__ = ["ReferenceInputError", "ReferenceResult", "reference"]
