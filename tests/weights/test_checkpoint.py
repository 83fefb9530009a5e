"""Checkpoints: converted and back the same bytes; whatever is wrong is one line, and nothing is lost."""

import json
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

import tests.styles as styles
from equivalence import BlockSpec, Grouped, convert
from equivalence.weights.checkpoint import convert_checkpoint
from equivalence.weights.plan import plan_of
from equivalence.weights.safetensors_file import CheckpointError, Reader
from tests.strategies import randomised

SPEC = BlockSpec(in_channels=4, cardinality=3, width=2, out_channels=6)
GROUP_NORMED = BlockSpec(in_channels=6, cardinality=2, width=4, norm="group", norm_groups=2, output_norm_groups=3)


def network():
    torch.manual_seed(0)
    blocks = [styles.OneActivationModule(spec) for spec in (SPEC, GROUP_NORMED)]
    return nn.Sequential(nn.Conv2d(3, 4, 3), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.fixture(scope="module")
def model():
    return network()


@pytest.fixture(scope="module")
def plans(model):
    return {back: plan_of(model, "per-branch", back=back) for back in (False, True)}


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_safetensors_file_is_converted_and_back_has_the_same_bytes(model, plans, prefix, tmp_path):
    first, there, back = (tmp_path / f"{name}.safetensors" for name in "abc")
    save_file({prefix + name: t for name, t in model.state_dict().items()}, first)
    convert_checkpoint(first, there, plans[False])
    expected = convert(model, "per-branch").state_dict()
    found = load_file(there)
    assert found.keys() == {prefix + name for name in expected}
    assert all(torch.equal(found[prefix + name], t) for name, t in expected.items())
    assert Reader(there).metadata["converted_to"] == "per-branch"
    convert_checkpoint(there, back, plans[True])
    old, new = load_file(first), load_file(back)
    assert old.keys() == new.keys()
    assert all(old[name].numpy().tobytes() == new[name].numpy().tobytes() for name in old)


@pytest.mark.parametrize("nest", [lambda s: s, lambda s: {"model": s, "epoch": 3}])
def test_a_torch_file_is_converted_bare_or_nested(model, plans, nest, tmp_path):
    torch.save(nest(model.state_dict()), tmp_path / "a.pth")
    convert_checkpoint(tmp_path / "a.pth", tmp_path / "b.pth", plans[False])
    loaded = torch.load(tmp_path / "b.pth", weights_only=True)
    convert(model, "per-branch").load_state_dict(loaded.get("model", loaded))
    convert_checkpoint(tmp_path / "b.pth", tmp_path / "c.pth", plans[True])
    loaded = torch.load(tmp_path / "c.pth", weights_only=True)
    again = loaded.get("model", loaded)
    assert all(torch.equal(again[name], t) for name, t in model.state_dict().items())


OPTIMIZERS = {
    "SGD": lambda model: torch.optim.SGD(model.parameters(), 0.01, momentum=0.9),
    "AdamW": lambda model: torch.optim.AdamW(model.parameters(), 0.01, eps=1e-3),
    "groups of names": lambda model: torch.optim.SGD([{"params": list(model.named_parameters())}], 0.01, momentum=0.9),
}


def trained(model, optimizer, seeds):
    for seed in seeds:
        optimizer.zero_grad()
        x = torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        model(x).square().sum().backward()
        optimizer.step()
    return [p.detach() for p in convert(model, "grouped").parameters()]


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_training_goes_on_from_a_converted_file_as_from_the_old_one(plans, make, tmp_path):
    first, second = network().double(), convert(network().double(), "per-branch")
    old, new = make(first), make(second)
    trained(first, old, (1, 2))
    torch.save({"model": first.state_dict(), "optimizer": old.state_dict()}, tmp_path / "a.pth")
    convert_checkpoint(tmp_path / "a.pth", tmp_path / "b.pth", plans[False])
    convert_checkpoint(tmp_path / "b.pth", tmp_path / "c.pth", plans[True])
    loaded, back = (torch.load(tmp_path / f"{name}.pth", weights_only=True) for name in "bc")
    second.load_state_dict(loaded["model"])
    new.load_state_dict(loaded["optimizer"])
    assert repr(back["optimizer"]) == repr(old.state_dict())
    pairs = zip(trained(first, old, (3, 4)), trained(second, new, (3, 4)), strict=True)
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-11) for a, b in pairs)


def test_an_optimiser_that_says_not_whose_its_state_is_is_refused(plans, tmp_path):
    model = network()
    optimizer = torch.optim.SGD([{"params": p} for p in model.parameters()], 0.1)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"optimiser whose state cannot be converted: \d+ groups"):
        convert_checkpoint(tmp_path / "a.pth", tmp_path / "b.pth", plans[False])


def test_counters_that_the_network_does_not_keep_come_and_go(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), styles.OneActivationModule(SPEC))
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.num_batches_tracked = None
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    convert_checkpoint(tmp_path / "a.safetensors", tmp_path / "b.safetensors", plan_of(model, "per-branch"))
    assert load_file(tmp_path / "b.safetensors").keys() == convert(model, "per-branch").state_dict().keys()
    convert_checkpoint(tmp_path / "b.safetensors", tmp_path / "c.safetensors", plan_of(model, "per-branch", back=True))
    assert load_file(tmp_path / "c.safetensors").keys() == model.state_dict().keys()


def test_what_a_file_says_of_itself_is_kept(model, plans, tmp_path):
    save_file(model.state_dict(), tmp_path / "a.safetensors", metadata={"origin": "here"})
    convert_checkpoint(tmp_path / "a.safetensors", tmp_path / "b.safetensors", plans[False])
    assert Reader(tmp_path / "b.safetensors").metadata["origin"] == "here"


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (print, ("this must never be run",))


def broken_files(model, folder):
    state = model.state_dict()
    name, tensor = next(iter(state.items()))
    yield "run code", lambda p: p.write_bytes(pickle.dumps({name: Evil()})), ".pth"
    yield "run code", lambda p: torch.save({name: Evil()}, p), ".pth"
    yield "lacks", lambda p: save_file({k: v for k, v in state.items() if k != list(state)[4]}, p), ".safetensors"
    yield "has extra", lambda p: save_file({**state, "extra": tensor.clone()}, p), ".safetensors"
    yield "has shape", lambda p: save_file({**state, name: tensor[:1].clone()}, p), ".safetensors"
    yield "does not exist", lambda p: None, ".safetensors"
    yield "truncated", lambda p: p.write_bytes(b""), ".safetensors"


@pytest.mark.parametrize("case", range(7))
def test_what_is_wrong_is_said_in_one_line_and_the_old_file_stays(model, plans, case, tmp_path, capsys):
    said, write, suffix = list(broken_files(model, tmp_path))[case]
    source, target = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    write(source)
    target.write_text("old")
    with pytest.raises(CheckpointError, match=said) as refused:
        convert_checkpoint(source, target, plans[False])
    assert "\n" not in str(refused.value)
    assert target.read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} <= {source.name, target.name}
    assert "never be run" not in capsys.readouterr().out


def test_an_output_that_is_the_input_is_refused(model, plans, tmp_path):
    path = tmp_path / "a.safetensors"
    save_file(model.state_dict(), path)
    with pytest.raises(CheckpointError, match="output is the input"):
        convert_checkpoint(path, path, plans[False])


def test_an_output_that_is_a_link_is_written_where_it_points(model, plans, tmp_path):
    source, link, goal = (tmp_path / f"{name}.safetensors" for name in "abc")
    save_file(model.state_dict(), source)
    goal.write_text("old")
    link.symlink_to(goal)
    convert_checkpoint(source, link, plans[False])
    assert link.is_symlink()
    assert Reader(goal).metadata["converted_to"] == "per-branch"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("a.safetensors", "a.onnx"), "must have one of .safetensors"),
        (("a.safetensors.index.json", "b.safetensors"), "in several files"),
        (("a.safetensors", "b.pth"), "different formats"),
        (("a.safetensors", "absent/b.safetensors"), "does not exist; create it"),
        (("a.safetensors", "folder.safetensors"), "is no file; name one"),
        (("folder.safetensors", "b.safetensors"), "is no file"),
    ],
)
def test_names_that_cannot_be_are_refused(model, plans, names, said, tmp_path):
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(CheckpointError, match=said):
        convert_checkpoint(*(tmp_path / name for name in names), plans[False])


def header(path, tensors):
    text = json.dumps(tensors).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("huge", {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4 * 10**18]}),
        ("negative", {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}),
        ("two\nlines\x1b[31m", {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}),
        ("\ud800", {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}),
        ("unknown", {"dtype": "X", "shape": [0], "data_offsets": [0, 0]}),
    ],
)
def test_a_header_that_lies_is_refused_in_one_printable_line(name, entry, tmp_path):
    header(tmp_path / "a.safetensors", {name: entry})
    with pytest.raises(CheckpointError) as refused:
        Reader(tmp_path / "a.safetensors")
    assert str(refused.value).isprintable()


def test_a_disk_that_fills_up_leaves_the_old_file(model, plans, tmp_path, monkeypatch):
    import equivalence.weights.safetensors_file as files

    def full(*_):
        raise OSError(28, "No space left on device")

    source, target = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file(model.state_dict(), source)
    target.write_text("old")
    monkeypatch.setattr(files.Writer, "copy", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        convert_checkpoint(source, target, plans[False])
    assert target.read_text() == "old"


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@given(st.data())
def test_a_truncated_or_flipped_file_is_refused_or_read_whole(model, plans, suffix, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("fuzz")
    source, target = folder / f"a{suffix}", folder / f"b{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(model.state_dict(), source)
    content = bytearray(source.read_bytes())
    if data.draw(st.booleans(), label="truncate"):
        del content[data.draw(st.integers(0, len(content) - 1), label="length") :]
    else:
        bit = data.draw(st.integers(0, 8 * min(len(content), 4096) - 1), label="bit")
        content[bit // 8] ^= 1 << bit % 8
    source.write_bytes(content)
    try:
        convert_checkpoint(source, target, plans[False])
        said = ""
    except CheckpointError as refused:
        said = str(refused)
    assert "\n" not in said
    assert target.exists() == (not said)
    assert len(list(folder.iterdir())) == 1 + target.exists()


def test_the_checkpoint_of_a_block_becomes_that_of_the_converted_block(tmp_path):
    block = randomised(Grouped(BlockSpec(in_channels=4, cardinality=2, width=3)), 0)
    source, target = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file(block.state_dict(), source)
    convert_checkpoint(source, target, plan_of(block, "per-branch"))
    expected = convert(block, "per-branch").state_dict()
    moved = load_file(target)
    assert moved.keys() == expected.keys()
    assert all(torch.equal(moved[name], tensor) for name, tensor in expected.items())
