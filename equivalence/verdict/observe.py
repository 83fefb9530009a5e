"""What can be concluded from floats alone: an observation, not a proof.

Guarantee: it is said to be no more than that. In float64 an honest reordering of a block's sums
stays below 1e-12 of the largest output, while a mistake is usually far above, so that agreement
there is a good sign; a small mistake can hide below it all the same.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from equivalence.arithmetic.floating import Mode, compare
from equivalence.verdict.verdict import Evidence, Verdict

if TYPE_CHECKING:
    from torch import Tensor, nn

LIMIT = 1e-12


def observe(left: nn.Module, right: nn.Module, inputs: Tensor, mode: Mode) -> tuple[Verdict, Evidence]:
    """Compare outputs in float64.

    Args:
        left, right: the modules, which are copied and cast.
        inputs: `(N, C, H, W)` of any float dtype.
        mode: "eval" or "train".
    """
    wide = [copy.deepcopy(module).double() for module in (left, right)]
    output = compare(wide[0], wide[1], inputs.double(), mode=mode, stages=False)["output"]
    agree = output.problem is None and output.max_abs_diff <= LIMIT * output.largest
    share = output.problem or f"{output.max_abs_diff:.2g} apart, largest output {output.largest:.3g}"
    statement = f"observed in float64, not proved: {share}"
    verdict = Verdict.EQUIVALENT if agree else Verdict.DIFFERENT
    return verdict, Evidence("floating", "outputs", agree, statement)
