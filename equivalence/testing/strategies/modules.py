"""Which modules are drawn: a form of a block, with weights such as training leaves them.

Guarantee: no scalar of a drawn module has its fresh value (mean 0, variance 1, gamma 1, beta 0),
because fresh statistics are the same in every channel and hide slices that went astray.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st

from equivalence.testing.case import Case
from equivalence.testing.names import DTYPES, FORM_NAMES, MODES
from equivalence.testing.strategies.arguments import dtype_name, some_of, spec_strategy
from equivalence.testing.strategies.tensors import seeds

if TYPE_CHECKING:
    from collections.abc import Collection

    from hypothesis.strategies import DrawFn, SearchStrategy
    from torch import dtype

    from equivalence.blocks.forms import Block
    from equivalence.blocks.spec import BlockSpec
    from equivalence.testing.strategies.tensors import Specs


def forms(*, names: Collection[str] = FORM_NAMES) -> SearchStrategy[type[Block]]:
    """The classes of forms: `PerBranch`, `Concatenated`, `Grouped`.

    >>> from hypothesis import find
    >>> find(forms(names=["grouped"]), lambda form: True).__name__
    'Grouped'

    Args:
        names: of the forms to draw from, the simplest first.

    Raises:
        InvalidArgument: if there is no form of a name, or no name.
    """
    chosen = some_of("forms", "names", names, FORM_NAMES)

    def classes() -> SearchStrategy[type[Block]]:
        from equivalence.blocks.forms import FORMS

        return st.sampled_from([FORMS[name] for name in chosen])

    return st.deferred(classes)


def modules(
    spec: Specs = None, *, names: Collection[str] = FORM_NAMES, dtype: str | dtype = "float32"
) -> SearchStrategy[Block]:
    """Forms of a block as if they had been trained, in evaluation mode.

    >>> from hypothesis import find
    >>> find(modules(), lambda module: True).form
    'per-branch'

    Args:
        spec: the block, or a strategy of blocks; any small block by default.
        names: of the forms to draw from, the simplest first.
        dtype: "float64", "float32", "float16" or "bfloat16", or torch's own object.

    Raises:
        InvalidArgument: naming the argument, its value and the rule.
    """
    specs = spec_strategy("modules", spec)
    return _modules(specs, forms(names=names), dtype_name("modules", dtype))


@st.composite
def _modules(draw: DrawFn, specs: SearchStrategy[BlockSpec], classes: SearchStrategy[type[Block]], dtype: str) -> Block:
    from equivalence.testing.build import build

    spec, form = draw(specs, label="spec"), draw(classes, label="form")
    return build(form, spec, draw(seeds(), label="seed of the weights"), dtype)


def cases(
    spec: Specs = None,
    *,
    modes: Collection[str] = MODES,
    dtypes: Collection[str] = DTYPES,
    lefts: Collection[str] = FORM_NAMES,
    rights: Collection[str] = FORM_NAMES,
    seed: int | None = None,
) -> SearchStrategy[Case]:
    """Two forms of one block to be checked, and how: what `equivalence search` draws.

    >>> from hypothesis import find
    >>> case = find(cases(), lambda case: case.mode == "train")
    >>> case.left, case.right, case.dtype
    ('per-branch', 'concatenated', 'float64')

    Args:
        spec: the block, or a strategy of blocks; any small block by default.
        modes: to draw from, "eval" or "train".
        dtypes: to draw from, "float64", "float32", "float16" or "bfloat16".
        lefts, rights: names of forms to draw the two sides from.
        seed: of the weights; drawn by default.

    Raises:
        InvalidArgument: naming the argument, its value and the rule.
    """
    pairs = [
        (left, right)
        for left in some_of("cases", "lefts", lefts, FORM_NAMES)
        for right in some_of("cases", "rights", rights, FORM_NAMES)
    ]
    # A form against itself says little, unless nothing else was asked for.
    apart = [pair for pair in pairs if pair[0] != pair[1]] or pairs
    sides = st.sampled_from(apart)
    return st.builds(
        lambda spec, pair, mode, dtype, seed: Case(spec, pair[0], pair[1], mode, dtype, seed),
        spec_strategy("cases", spec),
        sides,
        st.sampled_from(some_of("cases", "modes", modes, MODES)),
        st.sampled_from(some_of("cases", "dtypes", dtypes, DTYPES)),
        seeds() if seed is None else st.just(seed),
    )
