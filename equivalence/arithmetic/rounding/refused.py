"""Operations whose decomposition by torch would be a guess.

Resampling computes its coefficients in ordinary floats, each kernel in its own way; a step exactly
at its jump, a sort, or a random draw is no function of the exact values alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from equivalence.arithmetic.rounding.tensor import Rounding
from equivalence.arithmetic.stacked import Rule, unsupported

if TYPE_CHECKING:
    from torch._ops import OpOverloadPacket

aten = torch.ops.aten
RESAMPLING = [
    "upsample_linear1d",
    "upsample_bilinear2d",
    "upsample_trilinear3d",
    "upsample_bicubic2d",
    "_upsample_bilinear2d_aa",
    "_upsample_bicubic2d_aa",
    "grid_sampler_2d",
    "grid_sampler_3d",
    "affine_grid_generator",
]
OTHERS = [
    "scatter_reduce",
    "sort",
    "topk",
    "argsort",
    "argmax",
    "argmin",
    "embedding_renorm_",
    "heaviside",
    "nextafter",
    "frexp",
    "prod",
    "cumprod",
]


def _refused(packet: OpOverloadPacket, reason: str) -> Rule:
    def rule(*_args: Any, **_kwargs: Any) -> Any:
        raise unsupported(str(packet), reason)

    return rule


for _name in RESAMPLING:
    _packet = getattr(aten, _name)
    Rounding.rule(_packet)(_refused(_packet, "its coefficients are computed differently by every kernel"))
for _name in OTHERS:
    _packet = getattr(aten, _name)
    Rounding.rule(_packet)(_refused(_packet, "it has no rule for bounds"))
for _name in ("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention"):
    _packet = getattr(aten, _name)
    Rounding.rule(_packet)(_refused(_packet, "every kernel orders its exponentials differently"))
for _op in (aten.scatter.reduce, aten.scatter.value_reduce):
    Rounding.rule(_op)(_refused(aten.scatter, "it has no rule for bounds"))
