"""Operations without a rule of their own mean what torch's own steps mean."""

import pytest
import torch

from equivalence import check
from equivalence.arithmetic.rounding import Rounding


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_cast_of_a_slice_takes_the_slice(dtype):
    drawn = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    embedded = Rounding(torch.float64, native=dtype).embed(drawn.to(dtype))
    cast = torch.ops.aten.to.dtype(embedded[:, 1:2], torch.float32)
    assert torch.equal(cast.value, drawn[:, 1:2].double())
    assert cast.dtype is torch.float32


class Halves(torch.nn.Module):
    """An activation of both halves of the channels, whose gradients are slices of one tensor."""

    def __init__(self, activation):
        super().__init__()
        self.activation = activation

    def forward(self, x):
        return torch.cat([self.activation(half) for half in x.chunk(2, dim=1)], dim=1)


@pytest.mark.parametrize("activation", [torch.nn.SiLU, torch.nn.GELU, torch.nn.Mish])
def test_the_gradient_of_halves_is_the_gradient_of_the_whole(activation):
    report = check(Halves(activation()), activation(), input_shape=(2, 4, 3))
    assert report, report.headline
