"""A network without data shows the dataflow that it has with data, and torch's compiler is not loaded for it."""

import copy
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from torch import nn

import tests.styles as styles
from equivalence import BlockSpec
from equivalence.blocks.recognition.trace import trace
from equivalence.blocks.recognize import find_blocks
from tests.strategies import block_specs

SPEC = BlockSpec(in_channels=4, cardinality=2, width=3, stride=2)


def seen(module, x, training):
    """Operations and the shapes that they return."""
    found = trace(module, x, training=training)
    return [(node.op, [found.shapes[value] for value in node.outputs]) for node in found.nodes]


def surrounded():
    around = [nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2), styles.Surrounded(SPEC), nn.ConvTranspose2d(4, 6, 3, 2)]
    return nn.Sequential(*around, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2), nn.Softmax(1))


@pytest.mark.parametrize("training", [False, True])
def test_shapes_without_data_are_those_with_data(training):
    model, x = surrounded(), torch.randn(2, 3, 16, 16)
    assert seen(copy.deepcopy(model).to("meta"), x.to("meta"), training) == seen(model, x, training)


@pytest.mark.parametrize("style", styles.STYLES)
@given(spec=block_specs())
def test_a_block_without_data_is_the_same_block(style, spec):
    model = style(spec)
    x = torch.randn(2, *spec.input_shape(batch=2, size=6)[1:])
    with_data = find_blocks(model, x.shape)
    without = find_blocks(model.to("meta"), x.shape)
    assert [(b.spec, b.places, b.plain) for b in without.blocks] == [
        (b.spec, b.places, b.plain) for b in with_data.blocks
    ]


def test_what_depends_on_the_data_fails():
    class Depends(nn.Conv2d):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else x

    with torch.device("meta"), pytest.raises(RuntimeError):
        trace(Depends(3, 3, 1), torch.zeros(1, 3, 4, 4), training=False)


def test_recognising_does_not_load_the_compiler():
    code = (
        "import sys, torch; from equivalence import BlockSpec, Grouped; from equivalence.blocks.recognize import *\n"
        "for device in ('meta', 'cpu'):\n"
        "    recognize(Grouped(BlockSpec(in_channels=4, cardinality=2, width=2)).to(device))\n"
        "print('torch._dynamo' in sys.modules or 'sympy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
