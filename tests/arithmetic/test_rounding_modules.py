"""Torch's own modules and functions, forward and backward, against their runs in float32."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from equivalence.arithmetic.rounding import Rounding


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def assigned(x):
    y = x.clone()
    y[:, 0] = 3 * x[:, 1]
    return y


def batch_second(x):
    return x.transpose(0, 1).reshape(-1, 6).flip(0).view(4, -1)


MODULES = [
    nn.ReLU(),
    nn.ReLU6(),
    nn.LeakyReLU(),
    nn.PReLU(),
    nn.ELU(),
    nn.CELU(),
    nn.SELU(),
    nn.GELU(),
    nn.SiLU(),
    nn.Mish(),
    nn.Hardswish(),
    nn.Hardsigmoid(),
    nn.Hardtanh(),
    nn.Sigmoid(),
    nn.Tanh(),
    nn.Softplus(),
    nn.Softsign(),
    nn.Softshrink(),
    nn.Hardshrink(),
    nn.Tanhshrink(),
    nn.LogSigmoid(),
    nn.Softmax2d(),
    nn.Identity(),
    nn.Flatten(),
    nn.GELU("tanh"),
    nn.LogSoftmax(1),
    nn.Threshold(0.1, 0.2),
    nn.GLU(1),
    nn.BatchNorm2d(4),
    nn.BatchNorm2d(4).eval(),
    nn.BatchNorm2d(4, affine=False, track_running_stats=False),
    nn.InstanceNorm2d(4, affine=True),
    nn.GroupNorm(2, 4),
    nn.LayerNorm([6, 6]),
    nn.Conv2d(4, 6, 3, padding=1, groups=2),
    nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
    nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
    nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
    nn.Conv2d(4, 4, 3, padding=1, padding_mode="replicate"),
    nn.AvgPool2d(3, 2, 1),
    nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
    nn.AvgPool2d(2, divisor_override=3),
    nn.AdaptiveAvgPool2d(1),
    nn.AdaptiveAvgPool2d((4, 5)),
    nn.MaxPool2d(3, 2, 1),
    nn.AdaptiveMaxPool2d(2),
    nn.PixelShuffle(2),
    nn.Upsample(scale_factor=2),
    nn.ConstantPad2d(1, 0.1),
    nn.Linear(6, 3),
    nn.Unfold(3, padding=1),
]

FUNCTIONS = {
    "standardised": lambda x: (x - x.mean((2, 3), keepdim=True)) / x.std((2, 3), keepdim=True),
    "unit length": lambda x: F.normalize(x, dim=1),
    "maxima": lambda x: x.amax((2, 3)) + x.max(1)[0].sum() - x.min(3)[0].amin(2),
    "logsumexp": lambda x: x.logsumexp(1),
    "selected": lambda x: x[:, [0, 2, 0]],
    "positive": lambda x: x[x > 0].sum(),
    "concatenated": lambda x: torch.cat([x[:, :2], x], 1),
    "contracted": lambda x: torch.einsum("nchw,nchv->nwv", x, x) @ x[:, 0],
    "summed up": lambda x: x.cumsum(1),
    "powers": lambda x: x.abs() ** 1.5 + 2**x,
    "clamped": lambda x: x.clamp(x - 1, x + 0.5),
    "masked": lambda x: x.masked_fill(x > 0, 0.0) + torch.where(x > 0.5, x, -x),
    "in place": lambda x: F.relu(x.clone().mul_(2).add_(1), inplace=True),
    "assigned": assigned,
    "moved": batch_second,
    "losses": lambda x: F.mse_loss(x, x * 0.5) + F.smooth_l1_loss(x, x * 0),
    "classes": lambda x: F.cross_entropy(x.mean((2, 3)), torch.tensor([0, 1])),
    "gathered": lambda x: x.gather(1, torch.zeros(2, 1, 6, 6, dtype=torch.long)),
    "windows": lambda x: x.unfold(2, 3, 1).sum(-1),
    "widened": lambda x: x.double().mean().float(),
    "constants": lambda x: x * torch.tensor(0.3) + torch.arange(6) - torch.ones(6),
    "squeezed and excited": lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)),
    "split": lambda x: torch.cat([s.relu() for s in x.split(1, 1)], 1) + sum(x.chunk(2)).mean(),
    "one dimension": lambda x: F.max_pool1d(F.conv1d(x[:, 0], torch.ones(6, 6, 3)), 2),
    "three dimensions": lambda x: F.conv3d(x[None], torch.ones(1, 2, 2, 2, 2)),
}


def graph(module, parameters, x):
    """The output, and the gradients of everything that has one."""
    out = functional_call(module, parameters, (x,))
    wanted = [x, *(p for p in parameters.values() if p.requires_grad)]
    gradients = torch.autograd.grad(out.sum(), wanted, allow_unused=True)
    return [out, *gradients]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "module",
    [*MODULES, *map(Function, FUNCTIONS.values())],
    ids=[*(f"{i} {type(m).__name__}" for i, m in enumerate(MODULES)), *FUNCTIONS],
)
def test_values_and_gradients_are_those_of_torch(module, dtype):
    torch.manual_seed(0)
    x = torch.randn(2, 4, 6, 6)
    context = Rounding(dtype, native=torch.float32)
    trained = dict(module.named_parameters())
    state = {n: t.detach().clone() for n, t in (trained | dict(module.named_buffers())).items()}
    lifted = context.embed_all({n: t.clone() for n, t in state.items()})
    for tensors in (state, lifted):
        for n in trained:
            tensors[n].requires_grad_()
    bounded = graph(module, lifted, context.embed(x).requires_grad_())
    floats = graph(module, state, x.clone().requires_grad_())
    # in float64 the bound is on the value alone: float32 gets a tolerance of its own
    slack = 0.0 if dtype is torch.float32 else 1e-4
    for result, plain in zip(bounded, floats, strict=True):
        assert (result is None) == (plain is None)
        if plain is not None:
            assert result.shape == plain.shape
            assert result.dtype == plain.dtype
            error = (result.value - plain.double()).abs()
            assert (error <= 2 * result.bound + slack * (1 + plain.double().abs())).all()
            assert result.bound.max() < (1e-2 if dtype is torch.float32 else 1e-9)
