"""Copies of one block stay one function, whatever is done to them and in whatever order.

The model is the block's weights in the canonical arrangement. Every step either leaves it alone
(transfer, convert, save and load, layout) or changes it for all copies alike (training, a cast).
"""

import copy
import io

import pytest
import safetensors.torch
import torch
from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from equivalence import BlockSpec, check, convert, transfer
from equivalence.blocks.forms import FORMS
from equivalence.testing.build import transferred
from equivalence.testing.names import FORM_NAMES
from equivalence.testing.strategies import block_specs, seeds
from equivalence.weights.correspondence import gather

SPECS = block_specs(
    max_channels=4, max_cardinality=3, max_width=2, activation="relu", kernel_size=st.sampled_from([1, 3])
)
LAYOUTS = {2: torch.channels_last, 3: torch.channels_last_3d}


def canonical(block):
    """Every tensor of a block in the arrangement that all forms share, bit by bit."""
    tensors = gather(block.form, block.state_dict(), block.spec.cardinality)
    return {name: (tensor.dtype, tensor.contiguous().numpy().tobytes()) for name, tensor in tensors.items()}


class OneFunction(RuleBasedStateMachine):
    """Copies of one block, at least one of each form at the start."""

    @initialize(spec=SPECS, seed=seeds())
    def build(self, spec, seed):
        self.spec, self.dtype = spec, torch.float64
        self.copies = list(transferred(spec, seed, "float64"))
        self.checks = 0

    def pick(self, which):
        return which % len(self.copies)

    @rule(source=st.integers(0, 5), into=st.integers(0, 5))
    def transfer_weights(self, source, into):
        transfer(self.copies[self.pick(source)], self.copies[self.pick(into)])

    @rule(which=st.integers(0, 5), form=st.sampled_from(FORM_NAMES))
    def convert_a_copy(self, which, form):
        converted = convert(self.copies[self.pick(which)], form)
        if len(self.copies) < 5:
            self.copies.append(converted)
        else:
            self.copies[self.pick(which)] = converted

    @rule(which=st.integers(0, 5), safe=st.booleans())
    def save_and_load(self, which, safe):
        old = self.copies[self.pick(which)]
        new = FORMS[old.form](self.spec).to(self.dtype)
        if safe:
            # Files of this kind hold tensors in one layout only.
            flat = {name: tensor.contiguous() for name, tensor in old.state_dict().items()}
            loaded = safetensors.torch.load(safetensors.torch.save(flat))
        else:
            file = io.BytesIO()
            torch.save(old.state_dict(), file)
            loaded = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
        new.load_state_dict(loaded)
        self.copies[self.pick(which)] = new

    @rule(which=st.integers(0, 5), seed=seeds())
    def train_a_step(self, which, seed):
        """One copy learns, the others take its weights."""
        trained = self.copies[self.pick(which)].train()
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(self.spec.input_shape(batch=2, size=4), generator=generator, dtype=torch.float64)
        optimizer = torch.optim.SGD(trained.parameters(), lr=2.0**-6)
        trained(x.to(self.dtype)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        trained.eval()
        for other in self.copies:
            if other is not trained:
                transfer(trained, other)

    @rule(dtype=st.sampled_from([torch.float64, torch.float32]))
    def cast_all(self, dtype):
        self.dtype = dtype
        for block in self.copies:
            block.to(dtype)

    @precondition(lambda self: self.spec.spatial_dims in LAYOUTS)
    @rule(which=st.integers(0, 5), last=st.booleans())
    def change_layout(self, which, last):
        layout = LAYOUTS[self.spec.spatial_dims] if last else torch.contiguous_format
        for tensor in self.copies[self.pick(which)].parameters():
            if tensor.dim() == self.spec.spatial_dims + 2:
                tensor.data = tensor.data.contiguous(memory_format=layout)

    @rule(which=st.integers(0, 5))
    def copy_deeply(self, which):
        self.copies[self.pick(which)] = copy.deepcopy(self.copies[self.pick(which)])

    @precondition(lambda self: self.checks < 1)
    @rule(left=st.integers(0, 5), right=st.integers(0, 5))
    def ask_for_the_verdict(self, left, right):
        """Dear, so once for each run; the invariant is what holds always."""
        self.checks += 1
        pair = [self.copies[self.pick(which)] for which in (left, right)]
        report = check(*pair)
        assert report.verdict.name == "EQUIVALENT", report
        event(f"proved: {pair[0].form} / {pair[1].form}")

    @invariant()
    def all_copies_have_the_same_weights_bit_for_bit(self):
        first, *others = map(canonical, self.copies)
        assert all(other == first for other in others)


# The profile says how many runs; a run of a dozen steps meets every pair of them.
OneFunction.TestCase.settings = settings(stateful_step_count=12)
TestOneFunction = OneFunction.TestCase


def test_the_machine_notices_one_changed_bit():
    machine = OneFunction()
    machine.build(BlockSpec(in_channels=2, cardinality=2, width=1), 0)
    machine.all_copies_have_the_same_weights_bit_for_bit()
    with torch.no_grad():
        weight = machine.copies[0].branches[-1].reduce.conv.weight
        weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(torch.inf, dtype=torch.float64))
    with pytest.raises(AssertionError):
        machine.all_copies_have_the_same_weights_bit_for_bit()
