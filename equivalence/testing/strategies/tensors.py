"""What blocks are given.

Guarantee: no two elements of a drawn input are alike but by chance, so that no permutation,
shift or slice of it goes unseen; the seed shrinks, the values do not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st

from equivalence.testing.strategies.arguments import dtype_name, ordered, positive, spec_strategy

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy
    from torch import Tensor, dtype

    from equivalence.blocks.spec import BlockSpec

    Specs = BlockSpec | SearchStrategy[BlockSpec] | None


def seeds() -> SearchStrategy[int]:
    """Seeds of generators; the simplest is 0.

    >>> from hypothesis import find
    >>> find(seeds(), lambda seed: seed > 6)
    7
    """
    return st.integers(0, 2**32 - 1)


def input_shapes(
    spec: Specs = None, *, min_batch: int = 1, max_batch: int = 3, min_size: int = 1, max_size: int = 7
) -> SearchStrategy[tuple[int, ...]]:
    """Shapes `(N, C, H, W)` that a block takes, every spatial axis drawn by itself.

    >>> from hypothesis import find
    >>> from equivalence import BlockSpec
    >>> spec = BlockSpec(in_channels=8, cardinality=2, width=3)
    >>> find(input_shapes(spec), lambda shape: shape[2] != shape[3])
    (1, 8, 1, 2)

    Args:
        spec: the block, or a strategy of blocks; any block by default.
        min_batch, max_batch: least and greatest N.
        min_size, max_size: least and greatest extent of a spatial axis.

    Raises:
        InvalidArgument: naming the argument, its value and the rule.
    """
    limits = {"min_batch": min_batch, "max_batch": max_batch, "min_size": min_size, "max_size": max_size}
    positive("input_shapes", **limits)
    ordered("input_shapes", min_batch=min_batch, max_batch=max_batch)
    ordered("input_shapes", min_size=min_size, max_size=max_size)
    batches, sizes = st.integers(min_batch, max_batch), st.integers(min_size, max_size)
    return spec_strategy("input_shapes", spec).flatmap(
        lambda drawn: st.tuples(batches, st.just(drawn.in_channels), *[sizes] * drawn.spatial_dims)
    )


def inputs(
    spec: Specs = None,
    *,
    dtype: str | dtype = "float32",
    min_batch: int = 1,
    max_batch: int = 3,
    min_size: int = 1,
    max_size: int = 7,
) -> SearchStrategy[Tensor]:
    """Independent normal values that a block takes, `(N, C, H, W)`.

    >>> from hypothesis import find
    >>> from equivalence import BlockSpec
    >>> spec = BlockSpec(in_channels=8, cardinality=2, width=3)
    >>> find(inputs(spec), lambda x: True).shape
    torch.Size([1, 8, 1, 1])

    Args:
        spec: the block, or a strategy of blocks; any block by default.
        dtype: "float64", "float32", "float16" or "bfloat16", or torch's own object.
        min_batch, max_batch: least and greatest N.
        min_size, max_size: least and greatest extent of a spatial axis.

    Raises:
        InvalidArgument: naming the argument, its value and the rule.
    """
    shapes = input_shapes(spec, min_batch=min_batch, max_batch=max_batch, min_size=min_size, max_size=max_size)
    return _inputs(shapes, dtype_name("inputs", dtype))


@st.composite
def _inputs(draw: DrawFn, shapes: SearchStrategy[tuple[int, ...]], dtype: str) -> Tensor:
    import torch

    shape, seed = draw(shapes, label="input shape"), draw(seeds(), label="seed of the input")
    generator = torch.Generator().manual_seed(seed)
    wide = torch.randn(shape, generator=generator, dtype=torch.float64)
    return wide.to(getattr(torch, dtype))
