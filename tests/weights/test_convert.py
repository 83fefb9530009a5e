"""A converted network goes on as the old one would have; what it cannot take along is left and said."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import inputs, randomised
from torch import nn

import tests.styles as styles
from equivalence import BlockSpec, Grouped, TransferError, convert
from equivalence.verdict.network import check_network
from equivalence.weights.convert import convert_network

SPEC = BlockSpec(in_channels=6, cardinality=2, width=3)
X = inputs(SPEC, 0)


def network(style=styles.OneActivationModule, spec=SPEC):
    torch.manual_seed(0)
    model = nn.Sequential(style(spec), nn.Dropout(0.3), Grouped(spec)).double()
    return model if style is styles.Functional else randomised(model, 1)  # whose names say nothing


def after_training(module):
    """Outputs, input gradient, and outputs in evaluation after a step."""
    x = X.clone().requires_grad_()
    torch.manual_seed(3)
    y = module(x)
    y.square().sum().backward()
    trained = [p for p in module.parameters() if p.grad is not None]
    torch.optim.SGD([*trained, nn.Parameter(torch.zeros(()))], 1e-4).step()
    return [y.detach(), x.grad, module.eval()(X).detach()]


def same(left, right):
    return all(torch.allclose(a, b, rtol=1e-8, atol=1e-10) for a, b in zip(left, right, strict=True))


@given(st.data(), st.sampled_from(styles.STYLES), st.sampled_from(["per-branch", "concatenated", "grouped"]))
def test_modes_and_frozen_tensors_of_every_part_go_on(data, style, form):
    model = network(style)
    for part in model.modules():
        part.training = data.draw(st.booleans())
    for parameter in model.parameters():
        parameter.requires_grad_(data.draw(st.integers(0, 3)) > 0)
    converted, _ = convert_network(model, form)
    count = [sum(p.numel() for p in m.parameters() if p.requires_grad) for m in (model, converted)]
    assert count[0] == count[1]
    assert same(after_training(model), after_training(converted))


def test_branches_that_are_frozen_apart_leave_their_block_as_it_is():
    model = network(styles.SomeoneElsesBranches)
    model[0].paths[0][0].weight.requires_grad_(False)
    converted, record = convert_network(model, "grouped")
    assert not record.converted
    assert "requires_grad of 0" in dict(record.skipped)["0"]
    assert same(after_training(model), after_training(converted))


def test_hooks_of_what_is_replaced_fire_as_before():
    model, fired = network(), []
    model[0].register_forward_hook(lambda *_: fired.append("after the block"))
    model[0].c.register_forward_pre_hook(lambda *_: fired.append("before"))
    model[0].c.register_forward_hook(lambda *_: fired.append("after"))
    model[0].c.register_full_backward_hook(lambda *_: fired.append("backward"))
    converted = convert(model, "per-branch")
    fired.clear()
    converted(X).sum().backward()
    assert fired == ["before", "after", "after the block", "backward"]


def test_hooks_that_would_be_lost_leave_their_block_as_it_is():
    model = network(styles.NormsInsideConvolutions)
    model[0].one.norm.register_forward_hook(lambda *_: None)
    _, record = convert_network(model, "per-branch")
    assert dict(record.skipped)["0"].startswith("hooks of 0.one.norm would be lost")
    block = Grouped(SPEC)
    block.transform.conv.register_forward_hook(lambda *_: None)
    with pytest.raises(TransferError, match=r"hooks of transform.conv would be lost"):
        convert(block, "per-branch")


def test_a_tensor_with_a_second_name_leaves_its_block_as_it_is():
    model = network()
    model[0].alias = model[0].c.weight
    _, record = convert_network(model, "per-branch")
    assert [rewritten.source.path for rewritten in record.converted] == ["2"]
    assert "0.alias" in str(record)


def test_a_block_that_a_function_refers_to_is_left_as_it_is():
    model = network()
    model.shortcut = lambda x: model[0](x)
    _, record = convert_network(model, "per-branch")
    assert {path for path, reason in record.skipped if "refers to it" in reason} == {"0", "2"}


def test_what_was_not_saved_is_not_saved():
    model = network()
    mean = model[0].n1._buffers.pop("running_mean")
    model[0].n1.register_buffer("running_mean", mean, persistent=False)
    kept = [name for name in convert(model, "per-branch").state_dict() if "n1" in name and "running_mean" in name]
    assert kept == []


def test_gradients_do_not_come_along():
    model = network()
    model(X).sum().backward()
    assert all(p.grad is None for p in convert(model, "per-branch").parameters())


def test_a_network_without_data_is_converted_there_and_back():
    model = network().to("meta")
    there = convert(model, "per-branch")
    back = convert(there, "grouped")
    assert {t.device.type for t in [*there.parameters(), *there.buffers()]} == {"meta"}
    assert sorted(p.shape for p in back.parameters()) == sorted(p.shape for p in model.parameters())


def test_a_compiled_network_runs_what_it_was_converted_to():
    model = torch.compile(network().eval(), backend="eager")
    converted = convert(model, "per-branch")
    assert torch.allclose(converted(X), model(X), rtol=1e-10)
    with torch.no_grad():
        for parameter in converted.parameters():
            parameter.zero_()
    assert not torch.allclose(converted(X), model(X))


def test_a_wrapper_is_refused_with_what_to_give_instead():
    with pytest.raises(TransferError, match=r"give its \.module"):
        convert(nn.DataParallel(Grouped(SPEC)), "per-branch")


class FunctionsAlone(styles.Functional):
    """Functions in surroundings that no spec can say."""

    def forward(self, x):
        y = super().forward(x)
        return y * torch.sigmoid(y.mean((2, 3), keepdim=True))


def test_what_the_whole_network_keeps_is_said():
    model = nn.Sequential(FunctionsAlone(SPEC), Grouped(SPEC)).double()
    _, record = convert_network(copy.deepcopy(model), "per-branch")
    notes = check_network(model).notes
    assert "no submodules" in str(record)
    assert any("the whole network keeps 0 as it is" in note for note in notes)
