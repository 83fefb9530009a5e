"""Where the notebook departs from the paper, each departure a switch of its own."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Deviations:
    """Where the notebook departs from the paper; all of them, unless switched off.

    >>> dataclasses.replace(NOTEBOOK, shared_branch=False).shared_branch
    False
    >>> any(dataclasses.asdict(PAPER).values())
    False

    Attributes:
        shared_branch: A and B apply one `branch1` C times; off: C independent branches.
        inplace_identity: A adds its branches into its input; off: into an accumulator of its own.
        norm_in_branches: A ends each branch with norm and ReLU; off: one norm, after the sum.
        relu_before_add: the last ReLU precedes the shortcut's addition; off: it follows it.
        transform_bias: the 3×3 convolution has a bias; off: it has none.
    """

    shared_branch: bool = True
    inplace_identity: bool = True
    norm_in_branches: bool = True
    relu_before_add: bool = True
    transform_bias: bool = True


NOTEBOOK = Deviations()
PAPER = Deviations(
    shared_branch=False,
    inplace_identity=False,
    norm_in_branches=False,
    relu_before_add=False,
    transform_bias=False,
)
