"""The block as the paper draws it, branch by branch, over any numbers.

Guarantee: every branch is computed by itself from its own slice of the canonical arrangement and
the branches are then summed: no grouped convolution, no concatenation, no table of the
correspondence. Weights are checked against the spec first, so that no wrong shape can broadcast.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from equivalence.blocks.reference.activations import activate
from equivalence.blocks.reference.given import COUNTER, check
from equivalence.blocks.reference.number_types import ReferenceInputError, number_type

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import EllipsisType

    import numpy.typing as npt

    from equivalence.blocks.reference.number_types import Array, NumberType
    from equivalence.blocks.spec import BlockSpec


@dataclasses.dataclass(frozen=True, eq=False)
class ReferenceResult:
    """What the reference computed, stage by stage.

    Attributes:
        output: `(N, C_out, H_out, W_out)`.
        reduced: every branch after reduce, `(N, cardinality, width, H, W)`.
        transformed: every branch after transform, `(N, cardinality, width, H_out, W_out)`.
        aggregated: the expand outputs summed over branches, bias included, before the norm,
            `(N, C_out, H_out, W_out)`.
        statistics: in training mode the updated running means, variances and counters by canonical
            name, arranged as they were given; otherwise empty.
    """

    output: Array
    reduced: Array
    transformed: Array
    aggregated: Array
    statistics: Mapping[str, Array]


def reference(
    spec: BlockSpec,
    weights: Mapping[str, npt.ArrayLike],
    x: npt.ArrayLike,
    *,
    training: bool = False,
) -> ReferenceResult:
    """The block's output, stages and updated statistics, computed in the numbers it is given.

    Floats are computed in their precision, `mpmath.mpf` in that of their context; integers and
    fractions exactly, as object arrays of Python's integers and, where anything is divided,
    fractions.

    >>> from equivalence.blocks.spec import BlockSpec
    >>> spec = BlockSpec(in_channels=2, cardinality=3, width=1, kernel_size=1, norm="none")
    >>> weights = {
    ...     "reduce.conv.weight": np.ones((3, 1, 2, 1, 1), dtype=int),
    ...     "transform.conv.weight": np.ones((3, 1, 1, 1, 1), dtype=int),
    ...     "expand.weight": np.ones((3, 2, 1, 1, 1), dtype=int),
    ... }
    >>> result = reference(spec, weights, np.ones((1, 2, 4, 5), dtype=int))
    >>> result.output.shape, result.reduced.shape, result.output[0, 0, 0, 0]
    ((1, 2, 4, 5), (1, 3, 1, 4, 5), 7)

    Args:
        spec: the block.
        weights: arrays by canonical name, branches first: "reduce.conv.weight"
            `(cardinality, width, C_in, 1, 1)`, "transform.conv.weight"
            `(cardinality, width, width, k, k)`, "expand.weight"
            `(cardinality, C_out, width, 1, 1)`, "reduce.norm.weight" `(cardinality, width)`,
            "norm.weight" `(C_out,)` and so on.
        x: input `(N, C_in, H, W)`, with as many spatial axes as the spec says.
        training: normalise by the batch's own statistics and update the running ones.

    Raises:
        ReferenceInputError: if a weight is missing, unknown or of another shape, if x does not fit,
            if number types do not mix or cannot express a result, or if a batch of one value per
            channel is to be normalised.

    Source: arXiv 1611.05431, Fig. 3(a), Sec. 4 and footnote 6; torch's documentation for the
    convolution's geometry and for what a batch norm keeps.
    """
    arrays = {name: np.asarray(weight) for name, weight in weights.items()}
    image = np.asarray(x)
    check(spec, arrays, image)
    counted = {name: array for name, array in arrays.items() if not name.endswith(COUNTER)}
    numbers = number_type({"x": image, **counted})
    lifted = {name: numbers.lift(array) for name, array in counted.items()}
    return _Run(spec, arrays | lifted, numbers, training).block(numbers.lift(image))


class _Run:
    """One evaluation: what all steps of it need, and the statistics that they update."""

    def __init__(self, spec: BlockSpec, weights: Mapping[str, Array], numbers: NumberType, training: bool) -> None:
        self.spec = spec
        self.weights = weights
        self.numbers = numbers
        self.training = training
        self.statistics: dict[str, Array] = {}
        if training:
            self.statistics = {n: w.copy() for n, w in weights.items() if _is_statistic(n)}

    def block(self, x: Array) -> ReferenceResult:
        """All branches, their sum, the norm, the shortcut and the last activation."""
        branches = [self.branch(x, branch) for branch in range(self.spec.cardinality)]
        reduced, transformed, expanded = zip(*branches, strict=True)
        aggregated = functools.reduce(operator.add, expanded)
        if "expand.bias" in self.weights:
            aggregated = aggregated + _per_channel(self.weights["expand.bias"], aggregated)
        y = self.norm(aggregated, "norm")
        if self.spec.shortcut == "identity":
            y = y + x
        elif self.spec.shortcut == "projection":
            weight = self.weights["shortcut.conv.weight"]
            y = y + self.norm(_convolve(x, weight, stride=self.spec.stride), "shortcut.norm")
        return ReferenceResult(
            output=activate(self.spec.activation, y, self.numbers),
            reduced=np.stack(reduced, axis=1),
            transformed=np.stack(transformed, axis=1),
            aggregated=aggregated,
            statistics=self.statistics,
        )

    def branch(self, x: Array, branch: int) -> tuple[Array, Array, Array]:
        """Reduced, transformed and expanded: one path through Fig. 3(a)."""
        spec = self.spec
        reduced = self.unit(x, "reduce", branch)
        transformed = self.unit(reduced, "transform", branch, stride=spec.stride, dilation=spec.dilation)
        return reduced, transformed, _convolve(transformed, self.weights["expand.weight"][branch])

    def unit(self, x: Array, stage: str, branch: int, **geometry: int) -> Array:
        """Convolution with its bias, norm, activation."""
        y = _convolve(x, self.weights[f"{stage}.conv.weight"][branch], **geometry)
        if f"{stage}.conv.bias" in self.weights:
            y = y + _per_channel(self.weights[f"{stage}.conv.bias"][branch], y)
        return activate(self.spec.activation, self.norm(y, f"{stage}.norm", branch), self.numbers)

    def norm(self, x: Array, path: str, branch: int | EllipsisType = ...) -> Array:
        """Batch or group norm of `(N, C, …)`, of one branch or (`...`) of what belongs to none."""
        if self.spec.norm == "none":
            return x
        scale, offset = (self.weights[f"{path}.{name}"][branch] for name in ("weight", "bias"))
        if self.spec.norm == "group":
            groups = self.spec.output_norm_groups if branch is ... else self.spec.norm_groups
            return self.normed_in_groups(x, groups) * _per_channel(scale, x) + _per_channel(offset, x)
        mean, variance = (
            self.batch_statistics(x, path, branch)
            if self.training
            else (self.weights[f"{path}.running_{kept}"][branch] for kept in ("mean", "var"))
        )
        root = self.numbers.sqrt(variance + self.numbers.constant(self.spec.eps))
        normalised = self.numbers.divide(x - _per_channel(mean, x), _per_channel(root, x))
        return normalised * _per_channel(scale, x) + _per_channel(offset, x)

    def normed_in_groups(self, x: Array, groups: int) -> Array:
        """Every example's groups of neighbouring channels, each by its own mean and biased variance."""
        numbers, size = self.numbers, x.shape[1] // groups
        axes = tuple(range(1, x.ndim))
        normalised = []
        for low in range(0, x.shape[1], size):
            group = x[:, low : low + size]
            count = numbers.constant(group[0].size)
            deviation = group - numbers.divide(group.sum(axis=axes, keepdims=True), count)
            variance = numbers.divide((deviation**2).sum(axis=axes, keepdims=True), count)
            root = numbers.sqrt(variance + numbers.constant(self.spec.eps))
            normalised.append(numbers.divide(deviation, root))
        return np.concatenate(normalised, axis=1)

    def batch_statistics(self, x: Array, path: str, branch: int | EllipsisType) -> tuple[Array, Array]:
        """The batch's mean and biased variance; the running ones move on, by the unbiased one."""
        numbers, axes = self.numbers, (0, *range(2, x.ndim))
        count = x.size // x.shape[1]
        if count < 2:
            raise ReferenceInputError(
                f"{path} has {count} value per channel in this batch of shape {x.shape}, and "
                "training needs at least 2; give a larger batch"
            )
        mean = numbers.divide(x.sum(axis=axes), numbers.constant(count))
        squares = ((x - _per_channel(mean, x)) ** 2).sum(axis=axes)
        # All branches count the same batches, so every branch writes the same counter.
        counter = np.asarray(self.weights[f"{path}.{COUNTER}"] + 1)
        self.statistics[f"{path}.{COUNTER}"] = counter
        newest = {"mean": mean, "var": numbers.divide(squares, numbers.constant(count - 1))}
        for kept, value in newest.items():
            running = self.statistics[f"{path}.running_{kept}"]
            running[branch] = self.moved(running[branch], value, int(counter))
        return mean, numbers.divide(squares, numbers.constant(count))

    def moved(self, running: Array, newest: Array, counter: int) -> Array:
        """The exponential average, or without a momentum the average of all batches so far."""
        if self.spec.momentum is None:
            return running + self.numbers.divide(newest - running, self.numbers.constant(counter))
        momentum = self.numbers.constant(self.spec.momentum)
        average: Array = running * (1 - momentum) + newest * momentum
        return average


def _convolve(x: Array, weight: Array, *, stride: int = 1, dilation: int = 1) -> Array:
    """`(N, C_in, *S)` with `(C_out, C_in, *k)`, zeros around it so that stride 1 keeps sizes."""
    dims = x.ndim - 2
    extent = dilation * (weight.shape[-1] - 1) + 1
    margin = extent // 2
    # Not np.pad, which puts NumPy's 64-bit zeros among Python's integers.
    sizes = (size + 2 * margin for size in x.shape[2:])
    padded = np.zeros((*x.shape[:2], *sizes), dtype=x.dtype)
    inside = (slice(margin, margin + size) for size in x.shape[2:])
    padded[(slice(None), slice(None), *inside)] = x
    windows = sliding_window_view(padded, (extent,) * dims, axis=tuple(range(2, x.ndim)))
    steps = [slice(None, None, stride)] * dims + [slice(None, None, dilation)] * dims
    windows = windows[(slice(None), slice(None), *steps)]
    # Sum over input channels and the kernel: axes 1 and the last ones, (N, C_in, *S, *k).
    kernel = range(x.ndim, x.ndim + dims)
    y = np.tensordot(windows, weight, axes=((1, *kernel), (1, *range(2, x.ndim))))
    return np.moveaxis(y, -1, 1)


def _per_channel(values: Array, like: Array) -> Array:
    """`(C,)` shaped to meet the channels of `(N, C, …)`."""
    return values.reshape(-1, *[1] * (like.ndim - 2))


def _is_statistic(name: str) -> bool:
    return name.endswith((COUNTER, ".running_mean", ".running_var"))
