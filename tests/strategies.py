"""What tests make of a drawn spec and seed; both come from `equivalence.testing.strategies`."""

import torch
from torch import Tensor, nn

from equivalence import BlockSpec, Concatenated, Grouped, PerBranch
from equivalence.testing.strategies import block_specs, seeds

__all__ = ["FORMS", "block_specs", "blocks", "inputs", "normal", "randomised", "same_bits", "seeds", "state"]

FORMS = (PerBranch, Concatenated, Grouped)


def normal(shape, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Independent normal values."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def inputs(spec: BlockSpec, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """A batch of three, large enough that batch statistics are statistics."""
    size = {1: 7, 2: 5, 3: 3}[spec.spatial_dims]
    return normal(spec.input_shape(batch=3, size=size), seed, dtype)


@torch.no_grad()
def randomised(module: nn.Module, seed: int) -> nn.Module:
    """Give a module all the state of a trained one: no two scalars alike, nothing as when fresh."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(like: Tensor, low: float, high: float) -> Tensor:
        drawn = torch.rand(like.shape, generator=generator, dtype=torch.float64)
        return low + (high - low) * drawn

    counter = int(torch.randint(1, 1000, (), generator=generator))
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if name.endswith("num_batches_tracked"):
            tensor.fill_(counter)
        elif name.endswith("running_var"):
            tensor.copy_(uniform(tensor, 0.5, 2))
        elif name.endswith("norm.weight"):
            tensor.copy_(uniform(tensor, 0.5, 1.5) * uniform(tensor, -1, 1).sign())
        elif tensor.dim() > 1:
            fan_in = tensor[0].numel()
            tensor.copy_(uniform(tensor, -1, 1) * (3 / fan_in) ** 0.5)
        else:
            tensor.copy_(uniform(tensor, -0.5, 0.5))
    return module


def blocks(spec: BlockSpec, seed: int, dtype: torch.dtype = torch.float64) -> list[nn.Module]:
    """The three forms, with weights and state that have nothing to do with one another."""
    return [randomised(form(spec).to(dtype), seed + i) for i, form in enumerate(FORMS)]


def state(module: nn.Module) -> dict[str, Tensor]:
    """A copy of all parameters and buffers."""
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same_bits(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    """Whether two states are equal bit for bit, signs of zero and NaNs included."""
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype
        and left[name].shape == right[name].shape
        and left[name].numpy().tobytes() == right[name].numpy().tobytes()
        for name in left
    )
