"""The truth that bounds are held against, in mpmath over NumPy object arrays; and that it is true
itself.

Everything here is written plainly, from the definitions, and shares nothing with the code under
test.
"""

from __future__ import annotations

from itertools import product

import mpmath
import numpy as np
import torch
from torch import nn

mpmath.mp.prec = 400  # 1e-44 beside 1e38 keeps more than double precision
mpf = mpmath.mpf
ZERO = mpf(0)
FORMATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def exact(tensor):
    """The numbers of a plain tensor."""
    flat = [mpf(v) for v in tensor.detach().double().flatten().tolist()]
    return np.array(flat, dtype=object).reshape(tuple(tensor.shape))


class Dual:
    """A number and its derivative in one direction."""

    def __init__(self, value, slope=ZERO):
        self.value, self.slope = value, slope

    @staticmethod
    def of(x):
        return x if isinstance(x, Dual) else Dual(x)

    def __add__(self, other):
        other = Dual.of(other)
        return Dual(self.value + other.value, self.slope + other.slope)

    def __mul__(self, other):
        other = Dual.of(other)
        slope = self.value * other.slope + self.slope * other.value
        return Dual(self.value * other.value, slope)

    def __neg__(self):
        return Dual(-self.value, -self.slope)

    def __sub__(self, other):
        return self + -Dual.of(other)

    __radd__, __rmul__ = __add__, __mul__

    def __rsub__(self, other):
        return Dual.of(other) - self

    def __truediv__(self, other):
        return self * (mpf(1) / other)

    def __gt__(self, other):
        return self.value > other


def root(x):
    """1 / sqrt(x)."""
    if isinstance(x, Dual):
        value = 1 / mpmath.sqrt(x.value)
        return Dual(value, -x.slope * value / (2 * x.value))
    return 1 / mpmath.sqrt(x)


def convolve(x, w, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """A two-dimensional cross-correlation."""
    batch, _channels, height, width = x.shape
    outputs, inner, kh, kw = w.shape
    rows = (height + 2 * padding - dilation * (kh - 1) - 1) // stride + 1
    columns = (width + 2 * padding - dilation * (kw - 1) - 1) // stride + 1
    y = np.empty((batch, outputs, rows, columns), dtype=object)
    for n, o, i, j in product(*map(range, y.shape)):
        total = mpf(0) if bias is None else bias[o]
        first = o // (outputs // groups) * inner
        for c, a, b in product(range(inner), range(kh), range(kw)):
            r, s = i * stride + a * dilation - padding, j * stride + b * dilation - padding
            if 0 <= r < height and 0 <= s < width:
                total = total + x[n, first + c, r, s] * w[o, c, a, b]
        y[n, o, i, j] = total
    return y


def normalise(x, module, training=False):
    """A batch norm."""
    y = np.empty_like(x)
    for c in range(x.shape[1]):
        channel = x[:, c]
        if training:
            mean = channel.sum() / mpf(channel.size)
            variance = ((channel - mean) * (channel - mean)).sum() / mpf(channel.size)
        else:
            mean, variance = (exact(t)[c] for t in (module.running_mean, module.running_var))
        scale = root(variance + mpf(module.eps)) * exact(module.weight)[c]
        y[:, c] = (channel - mean) * scale + exact(module.bias)[c]
    return y


relu = np.vectorize(lambda v: v if v > 0 else v * mpf(0), otypes=[object])


class Block(nn.Module):
    """A residual bottleneck of a few channels."""

    def __init__(self, channels=4, width=4, groups=2, stride=1):
        super().__init__()
        self.reduce = nn.Conv2d(channels, width, 1, bias=False)
        self.first = nn.BatchNorm2d(width)
        self.transform = nn.Conv2d(width, width, 3, stride, 1, groups=groups)
        self.second = nn.BatchNorm2d(width)
        self.expand = nn.Conv2d(width, channels, 1)

    def forward(self, x):
        y = torch.relu(self.first(self.reduce(x)))
        y = torch.relu(self.second(self.transform(y)))
        return torch.relu(self.expand(y) + x)

    def truth(self, x, training=False):
        """The same over any numbers."""
        y = relu(normalise(convolve(x, exact(self.reduce.weight)), self.first, training))
        w, b = exact(self.transform.weight), exact(self.transform.bias)
        y = convolve(y, w, b, padding=1, groups=self.transform.groups)
        y = relu(normalise(y, self.second, training))
        y = convolve(y, exact(self.expand.weight), exact(self.expand.bias))
        return relu(y + x)


def randomised(module, seed, scale=1.0):
    """Random weights and statistics, a quarter of them far from the rest."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, t in module.state_dict().items():
            if t.is_floating_point():
                t.normal_(generator=generator)
                far = torch.rand(t.shape, generator=generator) < 0.25
                t.mul_(torch.where(far, scale, 1.0))
                if "running_var" in name:
                    t.abs_()
    return module


def assert_bounded(result, value, truth):
    """The largest error as a fraction of the bound, over elements with a bound; an unbounded error
    raises.
    """
    most = mpf(0)
    bounds = result.bound.double().flatten().tolist()
    for v, b, t in zip(value.double().flatten().tolist(), bounds, truth.flatten(), strict=True):
        if b == float("inf"):
            continue
        assert np.isfinite(v), "a value that is not finite has a finite bound"
        error = abs(mpf(v) - t)
        if error:
            assert error <= mpf(b), f"an error of {float(error)} exceeds the bound {b} at {float(t)}"
            most = max(most, error / mpf(b))
    return float(most)


def test_the_truth_agrees_with_torch_in_double_precision():
    for training in (False, True):
        block = randomised(Block(), 0).double().train(training)
        x = torch.randn(2, 4, 3, 3, dtype=torch.float64)
        truth = torch.tensor(block.truth(exact(x), training).astype(float))
        torch.testing.assert_close(block(x), truth, rtol=1e-12, atol=1e-12)


def test_the_derivative_agrees_with_torch_in_double_precision():
    block = randomised(Block(), 1).double().train()
    x = torch.randn(1, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(block(x).sum(), x)
    lifted = np.vectorize(Dual, otypes=[object])(exact(x))
    lifted[0, 1, 1, 2].slope = mpf(1)
    slope = sum(v.slope for v in block.truth(lifted, True).flatten())
    assert abs(float(slope) - gradient[0, 1, 1, 2].item()) < 1e-10
