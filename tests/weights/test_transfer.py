"""Weights move exactly, or not at all."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import FORMS, block_specs, blocks, inputs, normal, same_bits, seeds, state

from equivalence import (
    BlockSpec,
    Concatenated,
    Grouped,
    PerBranch,
    TransferError,
    convert,
    transfer,
)

NAMES = [form.form for form in FORMS]
SPEC = BlockSpec(in_channels=6, cardinality=2, width=3, bias=(True, True, True), stride=2)


def random_gradients(block, seed):
    for i, parameter in enumerate(block.parameters()):
        parameter.grad = normal(parameter.shape, seed + i, parameter.dtype)


def gradients(block):
    return {name: p.grad.clone() for name, p in block.named_parameters() if p.grad is not None}


pairs = st.tuples(*[st.sampled_from(range(3))] * 2)


@given(spec=block_specs(), seed=seeds(), pair=pairs)
def test_a_round_trip_is_bit_exact(spec, seed, pair):
    forms, fresh = blocks(spec, seed), blocks(spec, seed + 10)
    source, middle, back = forms[pair[0]], forms[pair[1] - 3], fresh[pair[0]]
    before = state(source)
    assert not same_bits(state(back), before)
    transfer(source, middle)
    transfer(middle, back)
    assert same_bits(state(back), before)
    assert same_bits(state(source), before)


@given(spec=block_specs(), seed=seeds(), order=st.permutations(range(3)))
def test_two_transfers_are_the_direct_one(spec, seed, order):
    source, middle, end = (blocks(spec, seed)[i] for i in order)
    direct = blocks(spec, seed + 10)[order[2]]
    transfer(source, direct)
    transfer(source, middle)
    transfer(middle, end)
    assert same_bits(state(end), state(direct))


def test_a_round_trip_that_loses_a_bit_is_found_out():
    source, target, _ = blocks(SPEC, 0)
    transfer(source, target)
    before = state(source)
    with torch.no_grad():
        weight = target.expand.weight.view(-1)
        weight[0] = torch.nextafter(weight[0], torch.tensor(torch.inf, dtype=weight.dtype))
    transfer(target, source)
    assert not same_bits(state(source), before)


@given(spec=block_specs(), seed=seeds(), pair=pairs)
def test_values_that_are_no_ordinary_numbers_arrive_as_they_are(spec, seed, pair):
    source, target = blocks(spec, seed)[pair[0]], blocks(spec, seed + 10)[pair[1]]
    odd = torch.tensor([-0.0, torch.nan, torch.inf, -torch.inf, 5e-324], dtype=torch.float64)
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.copy_(odd.repeat(parameter.numel())[: parameter.numel()].view_as(parameter))
    before = state(source)
    transfer(source, target)
    transfer(target, twin := blocks(spec, seed)[pair[0]])
    assert same_bits(state(twin), before)


@given(spec=block_specs(), seed=seeds(), pair=pairs)
def test_gradients_move_as_weights_do(spec, seed, pair):
    source, target = blocks(spec, seed)[pair[0]], blocks(spec, seed + 10)[pair[1]]
    random_gradients(source, seed)
    before = gradients(source)
    transfer(source, target, gradients=True)
    assert len(gradients(target)) == len(list(target.parameters()))
    transfer(target, twin := blocks(spec, seed + 20)[pair[0]], gradients=True)
    assert same_bits(gradients(twin), before)
    own = {p.grad.untyped_storage().data_ptr() for p in source.parameters()}
    assert own.isdisjoint(p.grad.untyped_storage().data_ptr() for p in target.parameters())


def test_gradients_stay_unless_they_are_asked_for():
    source, _, target = blocks(SPEC, 0)
    random_gradients(source, 0)
    random_gradients(target, 100)
    before = gradients(target)
    transfer(source, target)
    assert same_bits(gradients(target), before)


def test_a_source_without_gradients_leaves_the_target_without():
    source, _, target = blocks(SPEC, 0)
    random_gradients(target, 0)
    transfer(source, target, gradients=True)
    assert gradients(target) == {}


def test_the_target_keeps_its_parameters_dtype_and_memory():
    source, target = PerBranch(SPEC), Grouped(SPEC).double()
    before = [(id(p), p.data_ptr(), p.dtype) for p in target.parameters()]
    transfer(source, target)
    assert [(id(p), p.data_ptr(), p.dtype) for p in target.parameters()] == before
    assert torch.equal(target.norm.weight, source.norm.weight.double())


def test_a_cast_that_loses_bits_can_be_allowed():
    source, target = blocks(SPEC, 0)[0], Grouped(SPEC)
    transfer(source, target, lossy=True)
    assert torch.equal(target.norm.running_var, source.norm.running_var.float())
    assert target.norm.running_var.dtype == torch.float32


def test_the_source_may_be_tied():
    source, _, target = blocks(SPEC, 0)
    source.branches[1].reduce = source.branches[0].reduce
    transfer(source, target)
    first, second = target.reduce.conv.weight.chunk(2)
    assert torch.equal(first, second)
    assert torch.equal(convert(source, "grouped").reduce.conv.weight, target.reduce.conv.weight)


# What does not fit.


def other_spec():
    return BlockSpec(**SPEC.to_dict() | {"eps": 1e-3, "momentum": None})


def differing_counters(source, _target):
    source.branches[1].transform.norm.num_batches_tracked += 1


def wrong_shape_in_source(source, _target):
    for branch in source.branches:
        branch.expand.weight = torch.nn.Parameter(torch.zeros(5, 3, 1, 1, dtype=torch.float64))


def wrong_shape_in_target(_source, target):
    target.norm.running_mean = torch.zeros(7, dtype=torch.float64)


def wrong_dtype(_source, target):
    target.norm.running_var = target.norm.running_var.float()


def tied_target(_source, target):
    target.reduce.norm.weight = target.transform.norm.weight


def tensor_too_many(_source, target):
    target.register_buffer("temperature", torch.ones(()))


def tensor_too_few(_source, target):
    target.expand.bias = None


def branches_of_two_dtypes(source, _target):
    source.branches[1].expand.half()


def gradient_of_a_branch_missing(source, _target):
    random_gradients(source, 0)
    source.branches[1].expand.weight.grad = None


FITS_NOT = {
    differing_counters: "transform.norm.num_batches_tracked is one number, but the branches hold [{n}, {n1}]",
    wrong_shape_in_source: "expand.weight would get shape (5, 6, 1, 1), but needs (6, 6, 1, 1)",
    wrong_shape_in_target: "norm.running_mean would get shape (6,), but needs (7,)",
    wrong_dtype: "norm.running_var would be cast from torch.float64 to torch.float32, which can "
    "lose bits; cast the target, or allow it with lossy=True",
    tied_target: "transform.norm.weight and reduce.norm.weight share memory in the target; untie them first",
    tensor_too_many: "temperature has no counterpart in the source",
    tensor_too_few: "expand.bias has no counterpart in the target",
    branches_of_two_dtypes: "branches of expand.weight differ in shape or dtype: "
    "['(6, 3, 1, 1) torch.float64', '(6, 3, 1, 1) torch.float16']",
    gradient_of_a_branch_missing: "branches.1.expand.weight is missing, but branches.0.expand.weight is there",
}


@pytest.mark.parametrize("spoil", FITS_NOT, ids=lambda spoil: spoil.__name__)
def test_a_transfer_that_does_not_fit_says_why_and_leaves_no_trace(spoil):
    source, _, target = blocks(SPEC, 0)
    random_gradients(target, 50)
    n = int(source.branches[0].transform.norm.num_batches_tracked)
    spoil(source, target)
    before, grads = state(target), gradients(target)
    with pytest.raises(TransferError) as refused:
        transfer(source, target, gradients=True)
    assert str(refused.value) == FITS_NOT[spoil].format(n=n, n1=n + 1)
    assert same_bits(state(target), before)
    assert same_bits(gradients(target), grads)


def test_specs_that_differ_are_named_field_by_field():
    target = Grouped(other_spec())
    before = state(target)
    with pytest.raises(TransferError) as refused:
        transfer(PerBranch(SPEC), target)
    assert str(refused.value) == (
        "specs differ: eps is 1e-05 in the source and 0.001 in the target; "
        "momentum is 0.1 in the source and None in the target"
    )
    assert same_bits(state(target), before)


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_module_that_is_no_form_is_refused(side):
    modules = {"source": PerBranch(SPEC), "target": Grouped(SPEC)} | {side: torch.nn.Linear(2, 2)}
    with pytest.raises(TransferError) as refused:
        transfer(**modules)
    assert str(refused.value).startswith(
        f"{side} is a Linear, but must be one of the forms PerBranch, Concatenated, Grouped or hold"
    )


class FailsAfter(torch.overrides.TorchFunctionMode):
    """Lets some tensors be written, and then no more for one write."""

    def __init__(self, writes):
        super().__init__()
        self.left = writes

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.copy_:
            self.left -= 1
            if self.left == -1:
                raise KeyboardInterrupt
        return func(*args, **kwargs or {})


@given(seed=seeds(), writes=st.integers(0, len(Grouped(SPEC).state_dict()) - 1))
def test_a_write_that_fails_half_way_leaves_no_trace(seed, writes):
    source, _, target = blocks(SPEC, seed)
    with torch.no_grad():  # a zero that only its sign tells from what is written over it
        target.reduce.norm.bias.fill_(-0.0)
        for branch in source.branches:
            branch.reduce.norm.bias.zero_()
    before = state(target)
    with pytest.raises(KeyboardInterrupt), FailsAfter(writes):
        transfer(source, target)
    assert same_bits(state(target), before)


def test_tensors_that_can_not_be_written_leave_no_trace():
    source, _, target = blocks(SPEC, 0)
    target.norm.running_var = torch.ones((), dtype=torch.float64).expand(6)
    before = state(target)
    with pytest.raises(RuntimeError, match="single memory location"):
        transfer(source, target)
    assert same_bits(state(target), before)


# The record.


def test_the_record_prints_one_line_for_each_tensor():
    spec = BlockSpec(in_channels=8, cardinality=2, width=3, norm="none", bias=(True, False, True))
    assert str(transfer(PerBranch(spec), Grouped(spec))) == "\n".join(
        [
            "per-branch → grouped: 9 tensors",
            "  branches.0.reduce.conv.weight → reduce.conv.weight[0:3]  (3, 8, 1, 1)",
            "  branches.1.reduce.conv.weight → reduce.conv.weight[3:6]  (3, 8, 1, 1)",
            "  branches.0.reduce.conv.bias → reduce.conv.bias[0:3]  (3,)",
            "  branches.1.reduce.conv.bias → reduce.conv.bias[3:6]  (3,)",
            "  branches.0.transform.conv.weight → transform.conv.weight[0:3]  (3, 3, 3, 3)",
            "  branches.1.transform.conv.weight → transform.conv.weight[3:6]  (3, 3, 3, 3)",
            "  branches.0.expand.weight → expand.weight[:, 0:3]  (8, 3, 1, 1)",
            "  branches.1.expand.weight → expand.weight[:, 3:6]  (8, 3, 1, 1)",
            "  bias → expand.bias  (8,)",
        ]
    )


@given(spec=block_specs(), seed=seeds(), pair=pairs)
def test_the_record_is_what_happened(spec, seed, pair):
    source, target = blocks(spec, seed)[pair[0]], blocks(spec, seed + 10)[pair[1]]

    def at(block, place):
        name, _, slices = place.partition("[")
        bounds = re.findall(r"(\d+):(\d+)", slices)
        whole = block.state_dict()[name]
        return whole.narrow(slices.count(","), int(bounds[0][0]), spec.width) if bounds else whole

    record = transfer(source, target)
    for move in record.moves:
        assert torch.equal(at(source, move.source), at(target, move.target))
        assert at(target, move.target).shape == move.shape
    told = sum(at(target, move.target).numel() for move in record.moves)
    counters = "num_batches_tracked"
    scalars = sum(t.numel() for n, t in target.state_dict().items() if counters not in n)
    assert told - sum(counters in move.target for move in record.moves) == scalars


# Converting.


@given(spec=block_specs(), seed=seeds(), pair=pairs)
def test_a_converted_block_is_the_same_function_and_back_the_same_bits(spec, seed, pair):
    module = blocks(spec, seed)[pair[0]].eval()
    before, x = state(module), inputs(spec, seed)
    converted = convert(module, NAMES[pair[1]])
    assert type(converted) is FORMS[pair[1]]
    assert torch.allclose(converted(x), module(x), rtol=0, atol=1e-12 * float(x.abs().max() + 10))
    assert same_bits(state(convert(converted, module.form)), before)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_converted_block_keeps_mode_and_dtype(name, training, dtype):
    converted = convert(Grouped(SPEC).to(dtype).train(training), name)
    assert all(part.training == training for part in converted.modules())
    assert {p.dtype for p in converted.parameters()} == {dtype}


def test_a_converted_block_stays_on_its_device():
    converted = convert(Grouped(SPEC).to("meta"), "per-branch")
    assert {t.device.type for t in converted.state_dict().values()} == {"meta"}


@pytest.mark.parametrize("name", NAMES)
def test_a_converted_block_keeps_what_is_frozen(name):
    module = Grouped(SPEC)
    module.expand.weight.requires_grad_(False)
    module.transform.norm.eval()
    converted = convert(module, name)
    frozen = {n for n, p in converted.named_parameters() if not p.requires_grad}
    assert frozen == {n for n, _ in converted.named_parameters() if n.endswith("expand.weight")}
    resting = {n for n, part in converted.named_modules() if not part.training}
    assert resting == {n for n, _ in converted.named_modules() if n.endswith("transform.norm")}


@pytest.mark.parametrize("name", NAMES)
def test_a_converted_block_shares_no_memory_and_draws_no_random_numbers(name):
    module = Grouped(SPEC)
    random_state = torch.get_rng_state()
    converted = convert(module, name)
    assert torch.equal(torch.get_rng_state(), random_state)
    own = [t.untyped_storage().data_ptr() for t in converted.state_dict().values()]
    assert len(set(own)) == len(own)
    assert set(own).isdisjoint(t.untyped_storage().data_ptr() for t in module.state_dict().values())


def test_a_form_that_is_none_is_refused():
    with pytest.raises(TransferError) as refused:
        convert(Grouped(SPEC), "fused")
    assert str(refused.value) == ("form (='fused') must be one of per-branch, concatenated, grouped")


def test_branches_that_are_frozen_in_part_can_not_be_grouped():
    module = PerBranch(SPEC)
    module.branches[0].expand.weight.requires_grad_(False)
    with pytest.raises(TransferError) as refused:
        convert(module, "grouped")
    assert str(refused.value) == ("requires_grad of expand.weight is one value, but branches have [False, True]")
    assert convert(module, "per-branch").branches[0].expand.weight.requires_grad is False


def test_only_a_block_can_be_converted():
    with pytest.raises(TransferError, match=r"^module is a Linear with no block that is recognised: "):
        convert(torch.nn.Linear(2, 2), "grouped")


def test_a_converted_form_is_independent():
    module = Concatenated(SPEC)
    before = state(module)
    converted = convert(module, "grouped")
    with torch.no_grad():
        for tensor in converted.state_dict().values():
            tensor.add_(1)
    assert same_bits(state(module), before)
