"""The seed notebook's BottleneckA, B and C as it wrote them, each deviation a switch of its own.

Guarantee: with their defaults these modules have the notebook's constructor arguments, its tensors
under its names, and its results. With all deviations off, A, B and C are the three forms of
Fig. 3 (per-branch, concatenated, grouped), so each deviation can be seen to matter by itself.

What each deviation breaks, by the names of `Deviations`:

1. `shared_branch` breaks A: one branch is applied C times, so independent weights have no place in
   it, and in training its running statistics take C steps at once. B is broken likewise.
2. `inplace_identity` breaks A: each branch reads what the branches before it added to the input.
3. `norm_in_branches` breaks A: a sum of ReLUs is not the ReLU of a sum, and C norms have C times
   the parameters of one.
4. `relu_before_add` makes all three another block than the paper's (footnote 6), but the same other
   block: B and C stay equivalent.
5. `transform_bias` is harmless: the same bias in all three, and B and C stay equivalent.

With (3) the notebook's A has independent weights that no grouped form with one norm can hold, but
it has a grouped twin of its own, `BottleneckATwin`, whose norm and ReLU come before the sum.
"""

from equivalence.blocks.notebook.deviations import NOTEBOOK, PAPER, Deviations
from equivalence.blocks.notebook.structures import BottleneckA, BottleneckATwin, BottleneckB, BottleneckC
from equivalence.blocks.notebook.units import BasicConv, SepConv

__all__ = [
    "NOTEBOOK",
    "PAPER",
    "BasicConv",
    "BottleneckA",
    "BottleneckATwin",
    "BottleneckB",
    "BottleneckC",
    "Deviations",
    "SepConv",
]
