"""Which blocks are drawn.

Guarantee: every drawn spec is valid, and every combination of fields that is valid within the
limits can be drawn. The smallest is one branch of one channel, 1×1 kernel, stride 1, ReLU.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.errors import InvalidArgument
from hypothesis.strategies import SearchStrategy

from equivalence.blocks.spec import ACTIVATIONS, NORMS, BlockSpec, SpecError
from equivalence.testing.strategies.arguments import positive

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn

_FIELDS = tuple(field.name for field in dataclasses.fields(BlockSpec))
# What the groups of a norm part.
_GROUPED = {"norm_groups": "width", "output_norm_groups": "out_channels"}


def block_specs(
    *, max_channels: int = 8, max_cardinality: int = 4, max_width: int = 4, **fields: Any
) -> SearchStrategy[BlockSpec]:
    """Small valid specs, shrinking to one branch of one channel.

    >>> from hypothesis import find
    >>> find(block_specs(stride=2), lambda spec: True).shortcut
    'none'
    >>> block_specs(max_cardinality=0)
    Traceback (most recent call last):
        ...
    hypothesis.errors.InvalidArgument: block_specs: max_cardinality (=0) must be an integer of at least 1

    Args:
        max_channels: most channels of input and output.
        max_cardinality: most branches.
        max_width: most channels inside one branch.
        fields: any field of `BlockSpec`, as a value that is the same in every spec, or as a
            strategy from which it is drawn.

    Raises:
        InvalidArgument: naming the argument, its value and the rule.
    """
    limits = {"max_channels": max_channels, "max_cardinality": max_cardinality, "max_width": max_width}
    positive("block_specs", **limits)
    if unknown := sorted(fields.keys() - set(_FIELDS)):
        raise InvalidArgument(f"block_specs: {unknown[0]} is no field of BlockSpec; fields are {', '.join(_FIELDS)}")
    _possible({name: value for name, value in fields.items() if not isinstance(value, SearchStrategy)})
    return _specs(limits, fields)


def _possible(fixed: dict[str, Any]) -> None:
    """Refuse values that no block has, by building the least block that has them."""
    width, outputs = (_least(fixed.get(name, 1)) for name in _GROUPED)
    channels = fixed.get("in_channels", fixed.get("out_channels", outputs))
    least = {"in_channels": channels, "cardinality": 1, "width": width}
    least["out_channels"] = channels if fixed.get("shortcut") == "identity" else outputs
    if not _GROUPED.keys().isdisjoint(fixed):
        least["norm"] = "group"
    try:
        BlockSpec(**least | fixed)
    except SpecError as error:
        raise InvalidArgument(f"block_specs: {error}") from None


@st.composite
def _specs(draw: DrawFn, limits: dict[str, int], fields: dict[str, Any]) -> BlockSpec:
    def field(name: str, default: Any) -> Any:
        value = fields.get(name, default)
        return draw(value, label=name) if isinstance(value, SearchStrategy) else value

    # Groups that are asked for decide norm and channels; others follow from them.
    groups = {name: field(name, None) for name in _GROUPED}
    norm = field("norm", st.sampled_from(NORMS) if _GROUPED.keys().isdisjoint(fields) else "group")
    channels = st.integers(1, limits["max_channels"])
    outputs = _multiples(groups["output_norm_groups"], limits["max_channels"])
    asked = field("shortcut", None)
    drawn: dict[str, Any] = {}
    if asked == "identity":
        # Whichever of the two is asked for decides the other.
        first, second = sorted(("in_channels", "out_channels"), key=lambda name: name not in fields)
        drawn[first] = field(first, outputs)
        drawn[second] = field(second, drawn[first])
        drawn["stride"] = field("stride", 1)
        assume(drawn[first] == drawn[second] and drawn["stride"] == 1)
    else:
        drawn["in_channels"] = field("in_channels", channels)
        drawn["out_channels"] = field("out_channels", st.just(drawn["in_channels"]) | outputs)
        drawn["stride"] = field("stride", st.integers(1, 3))
    drawn["width"] = field("width", _multiples(groups["norm_groups"], limits["max_width"]))
    for name, whole in _GROUPED.items():
        if groups[name] is None:
            groups[name] = draw(_divisors(drawn[whole]), label=name) if norm == "group" else 1
        assume(groups[name] == 1 or (norm == "group" and drawn[whole] % groups[name] == 0))
    same_shape = drawn["in_channels"] == drawn["out_channels"] and drawn["stride"] == 1
    shortcuts = ["identity"] * same_shape + ["none", "projection"]
    return BlockSpec(
        **drawn,
        shortcut=draw(st.sampled_from(shortcuts), label="shortcut") if asked is None else asked,
        cardinality=field("cardinality", st.integers(1, limits["max_cardinality"])),
        kernel_size=field("kernel_size", st.sampled_from([1, 3, 5])),
        dilation=field("dilation", st.integers(1, 2)),
        bias=field("bias", st.tuples(*[st.booleans()] * 3)),
        norm=norm,
        **groups,
        eps=field("eps", st.sampled_from([1e-5, 1e-3, 0.1])),
        momentum=field("momentum", st.sampled_from([0.1, 0.0, 0.7, 1.0, None])),
        activation=field("activation", st.sampled_from(ACTIVATIONS)),
        spatial_dims=field("spatial_dims", st.integers(1, 3)),
    )


def _least(groups: Any) -> int:
    """The fewest channels that have so many groups."""
    return groups if type(groups) is int and groups > 0 else 1


def _multiples(groups: int | None, most: int) -> SearchStrategy[int]:
    """Numbers of channels that have so many groups, one of them at least."""
    least = groups or 1
    return st.integers(1, max(1, most // least)).map(least.__mul__)


def _divisors(channels: int) -> SearchStrategy[int]:
    """Into how many groups channels can be parted."""
    return st.sampled_from([groups for groups in range(1, channels + 1) if channels % groups == 0])
