"""What the reference has to be given: every canonical name of a block, with its shape.

Guarantee: arrays that pass have the names and shapes of the spec, all of them and no other, so that
no wrong shape can broadcast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from equivalence.blocks.reference.number_types import ReferenceInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from equivalence.blocks.reference.number_types import Array
    from equivalence.blocks.spec import BlockSpec

COUNTER = "num_batches_tracked"


def check(spec: BlockSpec, weights: Mapping[str, Array], x: Array) -> None:
    """Refuse weights or an input that are not as the spec says, by name and shape.

    Raises:
        ReferenceInputError: naming the array, its shape and the one that it should have.
    """
    needed = _shapes(spec)
    for name, shape in needed.items():
        if name not in weights:
            raise ReferenceInputError(f"weights lack {name} of shape {shape}")
        if weights[name].shape != shape:
            raise ReferenceInputError(f"{name} has shape {weights[name].shape}, not {shape}")
    if unknown := sorted(weights.keys() - needed.keys()):
        raise ReferenceInputError(f"weights hold {unknown[0]}, which this block does not have")
    if x.ndim != 2 + spec.spatial_dims or x.shape[1] != spec.in_channels:
        sizes = ", ".join("DHW"[-spec.spatial_dims :]) if spec.spatial_dims > 1 else "L"
        raise ReferenceInputError(f"x has shape {x.shape}, not (N, {spec.in_channels}, {sizes})")


def _shapes(spec: BlockSpec) -> dict[str, tuple[int, ...]]:
    """Every canonical name the block has, with its shape."""
    branches, width, out = spec.cardinality, spec.width, spec.out_channels
    point = (1,) * spec.spatial_dims
    kernel = (spec.kernel_size,) * spec.spatial_dims
    shapes: dict[str, tuple[int, ...]] = {
        "reduce.conv.weight": (branches, width, spec.in_channels, *point),
        "transform.conv.weight": (branches, width, width, *kernel),
        "expand.weight": (branches, out, width, *point),
    }
    biases = {
        "reduce.conv.bias": (branches, width),
        "transform.conv.bias": (branches, width),
        "expand.bias": (out,),
    }
    shapes |= {name: biases[name] for name, present in zip(biases, spec.bias, strict=True) if present}
    norms: dict[str, tuple[int, ...]] = {
        "reduce.norm": (branches, width),
        "transform.norm": (branches, width),
        "norm": (out,),
    }
    if spec.shortcut == "projection":
        shapes["shortcut.conv.weight"] = (out, spec.in_channels, *point)
        norms["shortcut.norm"] = (out,)
    vectors = {"batch": ("weight", "bias", "running_mean", "running_var"), "group": ("weight", "bias"), "none": ()}
    for path, shape in norms.items():
        shapes |= {f"{path}.{name}": shape for name in vectors[spec.norm]}
        shapes |= {f"{path}.{COUNTER}": ()} if spec.norm == "batch" else {}
    return shapes
