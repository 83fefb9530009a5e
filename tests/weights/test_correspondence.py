"""The table is a bijection, and it says what slicing by hand says."""

import dataclasses
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import FORMS, block_specs, blocks, randomised, same_bits, seeds, state

from equivalence import BlockSpec, Grouped, PerBranch
from equivalence.weights import correspondence
from equivalence.weights.correspondence import ROWS, CorrespondenceError, Row, gather, scatter

COUNTER = "num_batches_tracked"
SPEC = BlockSpec(in_channels=4, cardinality=2, width=3)


def numbered(block):
    """A state in which every scalar is another integer; counters apart, which are copies."""
    tensors, count = {}, 0
    for name, tensor in block.state_dict().items():
        if name.endswith(COUNTER):
            tensors[name] = torch.tensor(-1)
        else:
            tensors[name] = torch.arange(count, count + tensor.numel()).view(tensor.shape)
            count += tensor.numel()
    return tensors, count


def scalars(tensors):
    return sorted(int(i) for n, t in tensors.items() if COUNTER not in n for i in t.flatten())


def uses_every_scalar_once(form, other, spec):
    """Whether the table moves distinct integers from form to form as a bijection."""
    tensors, count = numbered(form(spec))
    canonical = gather(form.form, tensors, spec.cardinality)
    moved = scatter(other.form, canonical, spec.cardinality)
    shapes = {name: tensor.shape for name, tensor in other(spec).state_dict().items()}
    return (
        scalars(canonical) == scalars(moved) == list(range(count))
        and {name: tensor.shape for name, tensor in moved.items()} == shapes
        and all(int(moved[name]) == -1 for name in moved if name.endswith(COUNTER))
    )


@given(spec=block_specs(), form=st.sampled_from(FORMS), other=st.sampled_from(FORMS))
def test_the_table_is_a_bijection(spec, form, other):
    assert uses_every_scalar_once(form, other, spec)


def replaced(name, **methods):
    """The table with one row's methods exchanged."""
    return tuple(
        dataclasses.replace(row) if row.name != name else type("Row", (Row,), methods)(**vars(row)) for row in ROWS
    )


FAULTS = {
    "a branch used twice": lambda self, form, canonical, c: [
        part for part in Row.scatter(self, form, canonical, c)[:1] for _ in range(c)
    ],
    "a scalar invented": lambda self, form, canonical, c: [
        torch.nn.functional.pad(part.flatten()[1:], (1, 0)).view(part.shape)
        for part in Row.scatter(self, form, canonical, c)
    ],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_table_that_is_no_bijection_is_found_out(monkeypatch, fault):
    monkeypatch.setattr(correspondence, "ROWS", replaced("transform.norm.running_var", scatter=FAULTS[fault]))
    assert not uses_every_scalar_once(Grouped, PerBranch, SPEC)


@given(spec=block_specs(), seed=seeds(), form=st.sampled_from(FORMS))
def test_scatter_is_the_inverse_of_gather(spec, seed, form):
    before = state(randomised(form(spec), seed))
    canonical = gather(form.form, before, spec.cardinality)
    assert same_bits(before, scatter(form.form, canonical, spec.cardinality))


def grouped_by_hand(per_branch):
    """The grouped form's tensors as published slices say: axis 0, but axis 1 for expand."""
    tensors = {}
    for name, tensor in per_branch.state_dict().items():
        if match := re.fullmatch(r"branches\.\d+\.(.*)", name):
            tensors.setdefault(match[1], []).append(tensor)
        else:
            tensors["expand.bias" if name == "bias" else name] = tensor
    return {
        name: tensor
        if isinstance(tensor, torch.Tensor)
        else tensor[0]
        if name.endswith(COUNTER)
        else torch.cat(tensor, dim=int(name == "expand.weight"))
        for name, tensor in tensors.items()
    }


@given(spec=block_specs(), seed=seeds())
def test_branches_are_the_slices_that_the_paper_makes_of_a_grouped_block(spec, seed):
    per_branch, concatenated, _ = blocks(spec, seed)
    canonical = gather("per-branch", per_branch.state_dict(), spec.cardinality)
    grouped = scatter("grouped", canonical, spec.cardinality)
    assert same_bits(grouped, grouped_by_hand(per_branch))
    assert scatter("concatenated", canonical, spec.cardinality).keys() == state(concatenated).keys()


@given(spec=block_specs(), form=st.sampled_from(FORMS))
def test_every_tensor_of_every_form_stands_in_exactly_one_row(spec, form):
    listed = [n for row in ROWS for n in row.places[form.form].names(spec.cardinality)]
    assert len(listed) == len(set(listed))
    assert set(form(spec).state_dict()) <= set(listed)


def vectors(*dtypes):
    names = [f"branches.{i}.reduce.norm.weight" for i in range(2)]
    return {n: torch.zeros(3, dtype=dtype) for n, dtype in zip(names, dtypes, strict=True)}


REFUSALS = {
    "reduce.conv.weight has shape (5, 4, 1, 1), which is no '(c o) i ...' with c=2: "
    "Shape mismatch, can't divide axis of length 5 in chunks of 2": (
        "grouped",
        {"reduce.conv.weight": torch.zeros(5, 4, 1, 1)},
    ),
    "branches.1.expand.weight is missing, but branches.0.expand.weight is there": (
        "per-branch",
        {"branches.0.expand.weight": torch.zeros(4, 3, 1, 1)},
    ),
    "fc.weight has no counterpart in the other forms": ("grouped", {"fc.weight": torch.zeros(2)}),
    "reduce.norm.num_batches_tracked is one number, but the branches hold [3, 4]": (
        "concatenated",
        {f"branches.{i}.reduce.norm.{COUNTER}": torch.tensor(3 + i) for i in range(2)},
    ),
    "branches of reduce.norm.weight differ in shape or dtype: ['(3,) torch.float32', '(3,) torch.float64']": (
        "per-branch",
        vectors(torch.float32, torch.float64),
    ),
}


@pytest.mark.parametrize("message", REFUSALS)
def test_tensors_that_do_not_fit_are_named(message):
    form, tensors = REFUSALS[message]
    with pytest.raises(CorrespondenceError) as refused:
        gather(form, tensors, cardinality=2)
    assert str(refused.value) == message
