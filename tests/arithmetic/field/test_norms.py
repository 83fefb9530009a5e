"""Norms against the same thing written out, whose gradients autograd derives, and running statistics."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from equivalence.arithmetic.field import Field, FieldTensor


def batch_norm(x: Any, w: Any, b: Any, _m: Any, _v: Any) -> Any:
    return F.batch_norm(x, None, None, w, b, True, 0.1, 1e-3)


def batch_norm_by_hand(x: Any, w: Any, b: Any, _m: Any, _v: Any) -> Any:
    mean = x.mean((0, 2, 3), keepdim=True)
    var = (x - mean).pow(2).mean((0, 2, 3), keepdim=True)
    return (x - mean) * torch.rsqrt(var + 1e-3) * w.view(1, -1, 1, 1) + b.view(1, -1, 1, 1)


def batch_norm_eval(x: Any, w: Any, b: Any, m: Any, v: Any) -> Any:
    return F.batch_norm(x, m.detach(), v.detach(), w, b, False, 0.1, 1e-3)


def batch_norm_eval_by_hand(x: Any, w: Any, b: Any, m: Any, v: Any) -> Any:
    scale = w * torch.rsqrt(v.detach() + 1e-3)
    return x * scale.view(1, -1, 1, 1) + (b - m.detach() * scale).view(1, -1, 1, 1)


def layer_norm(x: Any, w: Any, b: Any, _m: Any, _v: Any) -> Any:
    return F.layer_norm(x.movedim(1, -1), (6,), w, b, 1e-3).movedim(-1, 1)


def layer_norm_by_hand(x: Any, w: Any, b: Any, _m: Any, _v: Any) -> Any:
    mean = x.mean(1, keepdim=True)
    var = (x - mean).pow(2).mean(1, keepdim=True)  # the gradient of x.var has a rounded constant 2 / n
    return (x - mean) * torch.rsqrt(var + 1e-3) * w.view(1, -1, 1, 1) + b.view(1, -1, 1, 1)


def group_norm(x: Any, w: Any, b: Any, _m: Any, _v: Any) -> Any:
    return F.group_norm(x, 2, w, b, 1e-3)


def group_norm_by_hand(x: Any, w: Any, b: Any, _m: Any, _v: Any) -> Any:
    g = x.reshape(x.shape[0], 2, -1)
    g = g - g.mean(2, keepdim=True)
    g = g * torch.rsqrt(g.pow(2).mean(2, keepdim=True) + 1e-3)
    return g.view(x.shape) * w.view(1, -1, 1, 1) + b.view(1, -1, 1, 1)


def instance_norm(x: Any, w: Any, b: Any, _m: Any, _v: Any) -> Any:
    return F.instance_norm(x, None, None, w, b, True, 0.1, 1e-3)


def instance_norm_by_hand(x: Any, w: Any, b: Any, _m: Any, _v: Any) -> Any:
    return F.group_norm(x, 6, w, b, 1e-3)


@pytest.mark.parametrize("name", ["batch_norm", "batch_norm_eval", "layer_norm", "group_norm", "instance_norm"])
def test_value_and_all_gradients(name: str) -> None:
    field = Field(4, 6)
    results = []
    for function in (globals()[name], globals()[f"{name}_by_hand"]):
        x = field.variables((2, 6, 3, 3), "x").requires_grad_()
        others = [field.variables((6,), k).requires_grad_() for k in "wbmv"]
        y = function(x, *others)
        grads = torch.autograd.grad(y, [x, *others[:2]], field.variables(y.shape, "cotangent"))
        results.append((y.detach(), *grads))
    for a, b in zip(*results, strict=True):
        assert FieldTensor.equal(a, b)


@pytest.mark.parametrize("momentum", [0.1, 0.5, None])
def test_running_statistics(momentum: float | None) -> None:
    field = Field(4, 6, dtype=torch.float64)
    module = nn.BatchNorm2d(3, momentum=momentum, dtype=torch.float64).train()
    state = field.embed_all({**dict(module.named_parameters()), **dict(module.named_buffers())})
    count = state["num_batches_tracked"]
    mean, var = state["running_mean"].clone(), state["running_var"].clone()
    for step in range(1, 4):
        x = field.variables((2, 3, 2, 5), f"x{step}")
        with torch.no_grad():
            torch.func.functional_call(module, state, (x,))
            share = 1.0 / step if momentum is None else momentum
            # torch multiplies by the float 1/step, so that is the number here
            kept = field.constant(1) - field.constant(share)
            mean = mean * kept + x.mean((0, 2, 3)) * share
            var = var * kept + x.var((0, 2, 3)) * share
        assert int(count) == step
        assert FieldTensor.equal(state["running_mean"], mean)
        assert FieldTensor.equal(state["running_var"], var)


def test_folded_statistics_follow_writes() -> None:
    field = Field(4, 6)
    x = field.variables((1, 3, 2, 2), "x")
    w, b, m, v = (field.variables((3,), k) for k in "wbmv")

    def run() -> FieldTensor:
        result: FieldTensor = F.batch_norm(x, m, v, w, b, False, 0.1, 1e-5)
        return result

    before = run()
    assert FieldTensor.equal(before, run())
    for tensor in (w, b, m, v):
        tensor[1:].add_(1)
        after = run()
        assert not FieldTensor.equal(before, after)
        before = after
