"""Operations and their gradients against torch's own, on integers that float64 never rounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F
from field_support import actual_field, assert_like_torch, integers

from equivalence.arithmetic.field import Field

if TYPE_CHECKING:
    from collections.abc import Callable

LCM = 5040  # divisible by every window size below

POLYNOMIAL: dict[str, tuple[Callable[..., Any], list[tuple[int, ...]]]] = {
    "add": (lambda a, b: a + b, [(2, 3), (3,)]),
    "add_alpha": (lambda a, b: torch.add(a, b, alpha=3), [(2, 3), (2, 1)]),
    "sub_scalar": (lambda a: 7 - a - 2, [(2, 3)]),
    "mul": (lambda a, b: a * b, [(2, 3), (4, 2, 3)]),
    "mul_self": (lambda a: a * a * a, [(2, 3)]),
    "div_scalar": (lambda a: a / 16 + a / -7, [(2, 3)]),
    "neg": (lambda a: -a, [(3,)]),
    "pow": (lambda a: a**3 + a**2 + a**1 + a**0, [(5,)]),
    "square": (lambda a: torch.square(a), [(5,)]),
    "sum": (lambda a: a.sum(), [(2, 3)]),
    "sum_dims": (lambda a: a.sum((0, -1), keepdim=True), [(2, 3, 4)]),
    "mean": (lambda a: a.mean((1, 2)), [(2, 3, 4)]),
    "prod": (lambda a: a.prod(1), [(2, 3)]),
    "cumsum": (lambda a: a.cumsum(1), [(2, 3)]),
    "addcmul": (lambda a, b, c: torch.addcmul(a, b, c, value=2), [(2, 3), (2, 3), (3,)]),
    "lerp": (lambda a, b: torch.lerp(a, b, 0.25), [(4,), (4,)]),
    "mm": (lambda a, b: a @ b, [(3, 4), (4, 2)]),
    "bmm": (lambda a, b: torch.bmm(a, b), [(2, 3, 4), (2, 4, 5)]),
    "matmul": (lambda a, b: a @ b, [(2, 2, 3, 4), (4, 5)]),
    "mv": (lambda a, b: a @ b, [(3, 4), (4,)]),
    "dot": (lambda a, b: torch.dot(a, b), [(4,), (4,)]),
    "einsum": (lambda a, b: torch.einsum("bchw,oc->bohw", a, b), [(2, 3, 2, 2), (4, 3)]),
    "linear": (lambda x, w, b: F.linear(x, w, b), [(2, 5, 3), (4, 3), (4,)]),
    "addmm": (lambda c, a, b: torch.addmm(c, a, b, beta=2, alpha=3), [(3, 2), (3, 4), (4, 2)]),
    "baddbmm": (lambda c, a, b: torch.baddbmm(c, a, b), [(2, 3, 2), (2, 3, 4), (2, 4, 2)]),
    "cat": (lambda a, b: torch.cat([a, b, a], 1), [(2, 3), (2, 1)]),
    "stack": (lambda a, b: torch.stack([a, b], -1), [(2, 3), (2, 3)]),
    "slicing": (lambda a: a[:, 1::2] * a[:, :2] + a[..., -1:], [(3, 4)]),
    "indexing": (lambda a: a[torch.tensor([2, 0, 2])] * a[1], [(3, 4)]),
    "boolean_indexing": (lambda a: a[torch.tensor([True, False, True])] * 2, [(3, 4)]),
    "index_select": (lambda a: a.index_select(1, torch.tensor([1, 1, 0])), [(3, 2)]),
    "gather": (lambda a: a.gather(1, torch.tensor([[1, 0, 1], [0, 0, 1]])), [(2, 2)]),
    "flip_roll": (lambda a: a.flip(0) * a.roll(1, 1), [(3, 4)]),
    "permute": (lambda a: a.permute(2, 0, 1).reshape(4, -1) * 3, [(2, 3, 4)]),
    "transpose": (lambda a: a.transpose(-1, 0).contiguous().view(-1), [(2, 3, 4)]),
    "expand": (lambda a: a.expand(5, -1, 4) * a, [(3, 1)]),
    "repeat": (lambda a: a.repeat(2, 3), [(2, 2)]),
    "split": (lambda a: torch.cat([p * (i + 1) for i, p in enumerate(a.split(2, 1))], 1), [(2, 5)]),
    "chunk_unbind": (lambda a: a.chunk(2)[1] + a.unbind(0)[0], [(4, 3)]),
    "squeeze": (lambda a: a.squeeze().unsqueeze(0).squeeze(0) * a.squeeze(1), [(3, 1)]),
    "tril": (lambda a: a.tril() + a.triu(1) * 2, [(3, 3)]),
    "diagonal": (lambda a: a.diagonal() * 2, [(3, 3)]),
    "unfold": (lambda a: a.unfold(1, 3, 2) * 2, [(2, 7)]),
    "im2col": (lambda a: F.unfold(a, 2, padding=1), [(1, 2, 3, 3)]),
    "channel_shuffle": (lambda a: F.channel_shuffle(a, 2) * 2, [(1, 4, 2, 2)]),
    "pixel_shuffle": (lambda a: F.pixel_shuffle(a, 2), [(1, 4, 2, 2)]),
    "pad_zero": (lambda a: F.pad(a, (1, 2, 0, 1)), [(1, 2, 3, 3)]),
    "pad_value": (lambda a: F.pad(a, (1, 2), value=3.0), [(2, 3)]),
    "pad_negative": (lambda a: F.pad(a, (-1, 1)), [(2, 3)]),
    "pad_reflect": (lambda a: F.pad(a, (1, 2, 1, 0), mode="reflect"), [(1, 2, 3, 4)]),
    "pad_replicate": (lambda a: F.pad(a, (1, 2, 1, 0), mode="replicate"), [(1, 2, 3, 4)]),
    "pad_circular": (lambda a: F.pad(a, (1, 2), mode="circular"), [(1, 2, 4)]),
    "nearest": (lambda a: F.interpolate(a, scale_factor=2), [(1, 2, 2, 3)]),
    "conv1d": (lambda x, w, b: F.conv1d(x, w, b, stride=2, padding=1), [(2, 3, 8), (4, 3, 3), (4,)]),
    "conv2d": (lambda x, w, b: F.conv2d(x, w, b, padding=1), [(2, 3, 4, 5), (4, 3, 3, 3), (4,)]),
    "conv2d_1x1": (lambda x, w: F.conv2d(x, w), [(2, 3, 4, 5), (4, 3, 1, 1)]),
    "conv2d_1x1_one": (lambda x, w: F.conv2d(x, w), [(1, 3, 4, 5), (4, 3, 1, 1)]),
    "conv2d_1x1_stride": (lambda x, w: F.conv2d(x, w, stride=2), [(2, 3, 4, 5), (4, 3, 1, 1)]),
    "conv2d_groups": (
        lambda x, w: F.conv2d(x, w, None, (2, 1), (1, 2), (1, 2), 2),
        [(2, 4, 5, 6), (6, 2, 3, 2)],
    ),
    "conv2d_depthwise": (lambda x, w: F.conv2d(x, w, padding=1, groups=4), [(1, 4, 4, 4), (4, 1, 3, 3)]),
    "conv2d_dilated": (lambda x, w: F.conv2d(x, w, padding=2, dilation=2), [(1, 2, 7, 6), (2, 2, 3, 3)]),
    "conv2d_same": (lambda x, w: F.conv2d(x, w, padding="same"), [(1, 2, 4, 5), (2, 2, 5, 3)]),
    "conv2d_unbatched": (lambda x, w: F.conv2d(x, w), [(2, 4, 4), (3, 2, 3, 3)]),
    "conv3d": (lambda x, w: F.conv3d(x, w, padding=1, stride=2), [(2, 2, 4, 3, 5), (2, 2, 3, 3, 3)]),
    "conv_transpose2d": (
        lambda x, w, b: F.conv_transpose2d(x, w, b, 2, 1, 1, 2, 1),
        [(2, 4, 3, 4), (4, 3, 3, 3), (6,)],
    ),
    "conv_transpose1d": (lambda x, w: F.conv_transpose1d(x, w), [(1, 2, 4), (2, 3, 1)]),
    "avg_pool1d": (lambda a: F.avg_pool1d(a, 3, 2, 1), [(2, 3, 7)]),
    "avg_pool2d": (lambda a: F.avg_pool2d(a, 2), [(2, 3, 5, 4)]),
    "avg_pool2d_ceil": (lambda a: F.avg_pool2d(a, 3, 2, 1, ceil_mode=True), [(1, 2, 6, 5)]),
    "avg_pool2d_uncounted": (
        lambda a: F.avg_pool2d(a, 3, 2, 1, True, count_include_pad=False),
        [(1, 2, 6, 5)],
    ),
    "avg_pool2d_divisor": (lambda a: F.avg_pool2d(a, 2, divisor_override=5), [(1, 2, 4, 4)]),
    "avg_pool3d": (lambda a: F.avg_pool3d(a, (2, 1, 3), 1), [(1, 2, 3, 3, 4)]),
    "adaptive1d": (lambda a: F.adaptive_avg_pool1d(a, 3), [(2, 2, 7)]),
    "adaptive2d": (lambda a: F.adaptive_avg_pool2d(a, (2, 3)), [(2, 2, 5, 7)]),
    "adaptive2d_one": (lambda a: F.adaptive_avg_pool2d(a, 1).flatten(1), [(2, 2, 5, 4)]),
    "adaptive3d": (lambda a: F.adaptive_avg_pool3d(a, 2), [(1, 2, 3, 4, 3)]),
    "sigmoid_like_where": (lambda a, b: torch.where(torch.tensor([True, False]), a, b), [(3, 2), (2,)]),
    "masked_fill_plain": (lambda a: a.masked_fill(torch.tensor([True, False]), 3.0), [(3, 2)]),
    "norm_like": (lambda a: (a - a.mean(0, keepdim=True)).pow(2).mean(0), [(4, 3)]),
}


@pytest.mark.parametrize("name", POLYNOMIAL)
def test_polynomial_operation(name: str) -> None:
    function, shapes = POLYNOMIAL[name]
    inputs = [integers(*s, seed=i, scale=LCM) for i, s in enumerate(shapes)]
    field = Field(3, 3, dtype=torch.float64)
    if name in ("mul_self", "pow", "prod"):
        inputs = [t / LCM for t in inputs]
    assert_like_torch(field, function, inputs, LCM)


PIECEWISE: dict[str, Callable[..., Any]] = {
    "relu": F.relu,
    "relu_inplace": lambda a: F.relu(a + 0, inplace=True),
    "relu_method": lambda a: (a * 2).relu_(),
    "relu6": F.relu6,
    "relu6_inplace": lambda a: F.relu6(a + 0, inplace=True),
    "leaky": lambda a: F.leaky_relu(a, 0.25),
    "leaky_inplace": lambda a: F.leaky_relu(a + 0, 0.25, inplace=True),
    "prelu": lambda a: F.prelu(a, torch.tensor([0.5], dtype=torch.float64)),
    "hardtanh": lambda a: F.hardtanh(a, -2.0, 3.0),
    "hardtanh_inplace": lambda a: F.hardtanh(a * 1, -2.0, 3.0, inplace=True),
    "clamp": lambda a: a.clamp(-2, 3),
    "clamp_min": lambda a: a.clamp(min=1),
    "clamp_max": lambda a: a.clamp(max=1),
    "clamp_crossed": lambda a: a.clamp(3, -2),
    "threshold": lambda a: F.threshold(a, 1.0, 7.0),
    "abs": lambda a: a.abs(),
    "sign": lambda a: a.sign() * a,
    "maximum": lambda a: torch.maximum(a, 2 - a),
    "minimum": lambda a: torch.minimum(a, a * a - 3),
    "hardsigmoid": lambda a: F.hardsigmoid(a * 6),
    "hardswish": lambda a: F.hardswish(a * 6),
    "softshrink": lambda a: F.softshrink(a, 2),
    "hardshrink": lambda a: F.hardshrink(a, 2),
    "threshold_mask": lambda a: (a > 1) * a + (a <= -2) * 3.0,
    "eq_ne": lambda a: torch.where(a == 2, a * 5, a) + (a != 1) * a,
    "lt_ge": lambda a: torch.where(a < 0, -a, a * 2) + (a >= 3).to(a.dtype),
    "masked_fill": lambda a: a.masked_fill(a < 1, 4.0),
    "mask_logic": lambda a: ((a > -2) & (a < 3) | ~(a > -4)) * a,
    "compare_tensors": lambda a: (a > a * a - 2) * a,
}


@pytest.mark.parametrize("name", PIECEWISE)
def test_piecewise_linear_operation(name: str) -> None:
    values = torch.tensor([[-9.0, -5.0, -4.0, -3.0, -1.0], [4.0, 5.0, 7.0, 8.0, 11.0]], dtype=torch.float64)
    field = actual_field()
    assert_like_torch(field, lambda a: PIECEWISE[name](a), [values])
