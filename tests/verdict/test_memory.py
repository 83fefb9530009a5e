"""A memory saves work and changes no answer."""

import pytest
from torch import nn

from equivalence import BlockSpec, check
from equivalence.testing.build import transferred
from equivalence.verdict.memory import Memory


def test_a_new_object_is_never_taken_for_one_that_is_gone():
    memory = Memory()
    for number in range(100):  # each at the address of the one before, were that not kept alive
        assert memory.recall("which", lambda number=number: number, nn.ReLU()) == number


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_checks_of_other_seeds_that_share_a_memory_say_what_they_say_alone(mode):
    _, b, c = transferred(BlockSpec(in_channels=2, cardinality=2, width=1), seed=0)
    memory = Memory()
    for seed in (0, 1, 0):
        assert str(check(b, c, mode=mode, seed=seed, memory=memory)) == str(check(b, c, mode=mode, seed=seed))
