"""`equivalence check` and `equivalence convert`, as a user meets them."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from equivalence.cli import main

CODE = """
from torch import nn
import tests.styles as styles
from equivalence import BlockSpec

SPEC = BlockSpec(in_channels=4, cardinality=2, width=2)

def net(silent=False, style="OneActivationModule"):
    block = getattr(styles, style)(SPEC)
    if silent:
        nn.init.zeros_(block.n3.weight)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), block)

def other():
    return net(style="NestedWrappers")

def no_block():
    return nn.Sequential(nn.Conv2d(3, 4, 1))

def broken():
    raise OSError("no such weights")
"""


@pytest.fixture
def code(tmp_path):
    path = tmp_path / "user_net.py"
    path.write_text(CODE)
    return path


def test_a_network_is_proved_equal_to_its_converted_selves(code, capsys):
    assert main(["check", f"{code}:net", "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert document["verdict"] == "equivalent"
    assert [r["weights"] for r in document["results"]] == ["transferred"] * 2 + ["as given"] * 2


def test_a_zero_last_gamma_is_said_and_random_weights_are_the_way_out(code, capsys):
    silent = ["check", f"{code}:net", "--args", '{"silent": true}']
    assert main(silent) == 2
    assert "check with random weights" in capsys.readouterr().out
    assert main([*silent, "--weights", "random", "--quiet"]) == 0


def test_two_implementations_are_equal_once_weights_have_moved(code, capsys):
    pair = ["check", f"{code}:net", f"{code}:other", "--quiet"]
    assert main([*pair, "--transfer"]) == 0
    assert main(["check", f"{code}:net", f"{code}:no_block", "--transfer"]) == 2
    assert "no block here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("nowhere_at_all:net", "cannot be imported"),
        ("net", "must look like module:callable"),
        ("{code}:missing", "has no missing"),
        ("{code}:broken", "no such weights"),
        ("{code}:SPEC", "must return a torch.nn.Module"),
        ("{code}:no_block", "no block here"),
    ],
)
def test_a_mistake_is_one_line_and_exits_with_2(code, target, said, capsys):
    assert main(["check", target.format(code=code)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_checkpoint_is_converted_there_and_back(code, tmp_path, capsys):
    from equivalence.cli_networks import load

    first, there, back = (str(tmp_path / f"{name}.safetensors") for name in "abc")
    save_file(load(f"{code}:net").state_dict(), first)
    options = ["--model", f"{code}:net", "--to", "per-branch"]
    assert main(["convert", first, there, *options]) == 0
    assert main(["convert", there, back, *options, "--back"]) == 0
    old, new = load_file(first), load_file(back)
    assert old.keys() == new.keys()
    assert all(torch.equal(old[name], new[name]) for name in old)
    assert main(["convert", first, first, *options]) == 2
    assert "output is the input" in capsys.readouterr().err


def test_two_modules_that_differ_are_told_where_and_how_to_see_it_again(code, capsys):
    code.write_text(
        CODE
        + """
import torch

def relu(kind=nn.ReLU):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), kind())

def relu6():
    return relu(nn.ReLU6)
"""
    )
    assert main(["check", f"{code}:relu", f"{code}:relu6", "--input-shape", "1,3,5,5"]) == 1
    shown = capsys.readouterr().out
    assert "first apart: 1 (ReLU) / 1 (ReLU6): equal inputs, outputs[" in shown
    assert "again: equivalence" in shown
