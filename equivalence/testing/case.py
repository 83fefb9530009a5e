"""One case of a campaign: two forms of one block, and how they are checked.

Guarantee: a `Case` is plain data whose repr is the Python that makes it again, so that a failing
one can be pasted into `@example`; checking it twice gives the same report.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from equivalence.blocks.spec import BlockSpec
    from equivalence.verdict.verdict import Report


@dataclasses.dataclass(frozen=True)
class Case:
    """Two forms of one block with transferred weights.

    >>> from equivalence import BlockSpec
    >>> spec = BlockSpec(in_channels=8, cardinality=2, width=3)
    >>> bool(Case(spec, "per-branch", "grouped").check())
    True

    Attributes:
        spec: the block.
        left, right: names of the forms.
        mode: "eval" or "train".
        dtype: of weights and inputs.
        seed: of weights and of the check.
    """

    spec: BlockSpec
    left: str
    right: str
    mode: str = "eval"
    dtype: str = "float32"
    seed: int = 0

    def check(self) -> Report:
        """The verdict on the two forms."""
        from equivalence.blocks.forms import FORMS
        from equivalence.testing.build import transferred
        from equivalence.verdict.check import check

        forms = dict(zip(FORMS, transferred(self.spec, self.seed, self.dtype), strict=True))
        report = check(forms[self.left], forms[self.right], mode=self.mode, seed=self.seed)  # type: ignore[arg-type]  # validated where it is drawn
        return dataclasses.replace(report, weights="transferred")
