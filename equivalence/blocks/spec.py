"""What a block is, apart from its weights and its form.

Guarantee: a `BlockSpec` that exists is valid as a whole, so no form, table or report checks it
again. It is plain data (frozen, hashable, JSON both ways) and needs no torch, so that command
lines, Hypothesis strategies and pytest plugins can name blocks without paying for an import.
"""

from __future__ import annotations

import dataclasses
import json
import math
import operator
import re
from typing import TYPE_CHECKING, Any, Literal, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

Shortcut = Literal["identity", "projection", "none"]
Norm = Literal["batch", "group", "none"]

SHORTCUTS: tuple[Shortcut, ...] = ("identity", "projection", "none")
NORMS: tuple[Norm, ...] = ("batch", "group", "none")

# The functions of torch.nn.functional that act element by element, need no argument and draw no
# random numbers. Kept as text so that a spec needs no torch; the tests hold it against torch.
ACTIVATIONS = (
    "relu",
    "relu6",
    "leaky_relu",
    "elu",
    "celu",
    "selu",
    "gelu",
    "silu",
    "mish",
    "sigmoid",
    "logsigmoid",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "hardshrink",
    "softshrink",
    "softplus",
    "softsign",
    "tanh",
    "tanhshrink",
)


class SpecError(ValueError):
    """A field of a `BlockSpec` has a value that no block can have."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockSpec:
    """One residual bottleneck: reduce (1×1) → transform (k×k) → expand (1×1), plus shortcut.

    >>> spec = BlockSpec(in_channels=256, cardinality=32, width=4)
    >>> spec.out_channels, spec.shortcut, spec.template
    (256, 'identity', '32x4d')
    >>> BlockSpec.from_json(spec.to_json()) == spec
    True
    >>> BlockSpec(in_channels=256, cardinality=0, width=4)
    Traceback (most recent call last):
        ...
    equivalence.blocks.spec.SpecError: cardinality (=0) must be at least 1

    Args:
        in_channels: channels C of the input `(N, C, H, W)`.
        cardinality: number of branches.
        width: channels inside one branch.
        out_channels: channels of the output; those of the input by default.
        kernel_size: odd extent of the transform convolution, padded so that stride 1 keeps sizes.
        stride: stride of the transform convolution and of the projection.
        dilation: dilation of the transform convolution.
        bias: whether the reduce, the transform and the expand convolution have a bias.
        norm: "batch" or "group" after every convolution (after the *sum* for expand), or "none".
        norm_groups: groups of channels that a group norm in the branches makes in *one* branch, so
            that none straddles two of them; a grouped form has cardinality times as many.
        output_norm_groups: groups of the output channels for the group norms after the sum and in
            the projection, which look at no branch.
        eps: added to a variance before its root is taken.
        momentum: weight of the newest batch in the running statistics; `None` averages them all.
        activation: a function of `torch.nn.functional` that acts element by element.
        shortcut: "identity", "projection" (1×1 convolution and norm) or "none"; by default identity
            where shapes allow it, else projection.
        spatial_dims: 1 for `(N, C, L)`, 2 for `(N, C, H, W)`, 3 for `(N, C, D, H, W)`.

    Raises:
        SpecError: naming every wrong field, its value and the rule.

    Source: Xie et al. 2016 (arXiv 1611.05431), Fig. 3, Sec. 3 and footnote 6.
    """

    in_channels: int
    cardinality: int
    width: int
    out_channels: int = None  # type: ignore[assignment]  # resolved to in_channels below
    kernel_size: int = 3
    stride: int = 1
    dilation: int = 1
    bias: tuple[bool, bool, bool] = (False, False, False)
    norm: Norm = "batch"
    norm_groups: int = 1
    output_norm_groups: int = 1
    eps: float = 1e-5
    momentum: float | None = 0.1
    activation: str = "relu"
    shortcut: Shortcut = None  # type: ignore[assignment]  # resolved from the shapes below
    spatial_dims: int = 2

    def __post_init__(self) -> None:
        for field, value in self._resolved().items():
            object.__setattr__(self, field, value)
        if problems := self._problems():
            raise SpecError("; ".join(problems))

    def _resolved(self) -> dict[str, Any]:
        """Defaults that depend on other fields, and equal values in one spelling."""
        out_channels = self.in_channels if self.out_channels is None else self.out_channels
        same_shape = self.in_channels == out_channels and self.stride == 1
        default = "identity" if same_shape else "projection"
        integers = {field: _as_integer(getattr(self, field)) for field in _POSITIVE}
        return integers | {
            "out_channels": _as_integer(out_channels),
            "shortcut": default if self.shortcut is None else self.shortcut,
            "bias": tuple(self.bias) if isinstance(self.bias, (list, tuple)) else self.bias,
        }

    def _problems(self) -> list[str]:
        """Every broken rule, in the order of the fields."""
        broken = [
            f"{field} (={value!r}) must be {'at least 1' if type(value) is int else 'an integer'}"
            for field in _POSITIVE
            if type(value := getattr(self, field)) is not int or value < 1
            if field != "out_channels" or value != self.in_channels  # by default: said once
        ]
        return broken or [
            f"{field} (={getattr(self, field)!r}) {rule}" for field, holds, rule in self._rules() if not holds
        ]

    def _rules(self) -> Iterator[tuple[str, bool, str]]:
        """Each rule with its field and whether it holds, once all sizes are positive integers."""
        same_shape = self.in_channels == self.out_channels and self.stride == 1
        momentum = self.momentum is None or (_is_number(self.momentum) and 0 <= self.momentum <= 1)
        yield "kernel_size", self.kernel_size % 2 == 1, "must be odd, so that it has a centre"
        yield (
            "bias",
            _three_booleans(self.bias),
            "must be three booleans: reduce, transform, expand",
        )
        yield "norm", self.norm in NORMS, _one_of(NORMS)
        for groups, channels in (("norm_groups", "width"), ("output_norm_groups", "out_channels")):
            number, whole = getattr(self, groups), getattr(self, channels)
            yield groups, number == 1 or self.norm == "group", f"needs norm 'group', not {self.norm!r}; leave it at 1"
            yield groups, whole % number == 0, f"must divide {channels} (={whole}); use a divisor, such as 1"
        yield "eps", _is_number(self.eps) and 0 < self.eps < math.inf, "must be positive and finite"
        yield "momentum", momentum, "must lie between 0 and 1, or be None"
        yield "activation", self.activation in ACTIVATIONS, _one_of(ACTIVATIONS)
        yield "shortcut", self.shortcut in SHORTCUTS, _one_of(SHORTCUTS)
        yield (
            "shortcut",
            self.shortcut != "identity" or same_shape,
            f"needs in_channels (={self.in_channels}) equal to out_channels "
            f"(={self.out_channels}) and stride (={self.stride}) 1; use 'projection' or 'none'",
        )
        yield "spatial_dims", self.spatial_dims in (1, 2, 3), "must be 1, 2 or 3"

    @property
    def template(self) -> str:
        """The paper's name for cardinality and width, such as "32x4d"."""
        return f"{self.cardinality}x{self.width}d"

    @property
    def hidden_channels(self) -> int:
        """Channels of all branches together, cardinality × width."""
        return self.cardinality * self.width

    @property
    def padding(self) -> int:
        """Zeros on each side of the transform convolution."""
        return self.dilation * (self.kernel_size - 1) // 2

    def input_shape(self, *, batch: int = 1, size: int = 56) -> tuple[int, ...]:
        """Shape of an input with equal spatial sizes, `(N, C, H, W)` in two dimensions."""
        return (batch, self.in_channels, *[size] * self.spatial_dims)

    @classmethod
    def from_template(cls, template: str, **fields: Any) -> Self:
        """The spec of a paper's template.

        >>> BlockSpec.from_template("32x4d", in_channels=256).cardinality
        32

        Raises:
            SpecError: if the template does not look like "32x4d", or another field is wrong.
        """
        match = re.fullmatch(r"(\d+)x(\d+)d", template)
        if match is None:
            raise SpecError(f"template (={template!r}) must look like '32x4d': cardinality x width d")
        return cls(cardinality=int(match[1]), width=int(match[2]), **fields)

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `json.dumps` takes, every field included."""
        return dataclasses.asdict(self) | {"bias": list(self.bias)}

    def to_json(self) -> str:
        """The spec as one JSON object."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The spec that `to_json` wrote; fields left out have their defaults.

        Raises:
            SpecError: if the text is no JSON object, names an unknown field, or lacks a needed one.
        """
        try:
            fields = json.loads(text)
        except json.JSONDecodeError as error:
            raise SpecError(f"spec must be a JSON object: {error}") from None
        if not isinstance(fields, dict):
            raise SpecError(f"spec must be a JSON object, not {type(fields).__name__}")
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(fields.keys() - known):
            raise SpecError(f"spec has unknown fields {unknown}; known are {sorted(known)}")
        if missing := [name for name in ("in_channels", "cardinality", "width") if name not in fields]:
            raise SpecError(f"spec lacks {missing}")
        return cls(**fields)


_POSITIVE = (
    "in_channels",
    "cardinality",
    "width",
    "out_channels",
    "kernel_size",
    "stride",
    "dilation",
    "norm_groups",
    "output_norm_groups",
    "spatial_dims",
)


def _as_integer(value: Any) -> Any:
    """NumPy's integers become Python's; what is no integer stays, to be named in the error."""
    try:
        return value if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _three_booleans(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 3 and all(type(b) is bool for b in value)


def _one_of(names: tuple[str, ...]) -> str:
    return "must be one of " + ", ".join(names)
