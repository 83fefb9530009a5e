"""Whole networks: every block certified, the whole proved, and mistakes seen."""

import pytest
import torch
from torch import nn

from equivalence import BlockSpec, Grouped, PerBranch, Verdict
from equivalence.blocks.recognize import find_blocks
from equivalence.verdict.names import AFTER_SGD
from equivalence.verdict.network import check_network, compare_networks
from equivalence.weights.convert import convert_network, rewrite
from tests.strategies import randomised

SPEC = BlockSpec(in_channels=4, cardinality=2, width=2)
WIDER = BlockSpec(in_channels=4, cardinality=2, width=3, out_channels=6, stride=2)


def network(*blocks, pool=None):
    """A stem, blocks, a mean and a classifier."""
    channels = blocks[-1].spec.out_channels
    head = [pool or nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3)]
    return randomised(nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), *blocks, *head), 0)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_every_block_and_the_whole_are_proved(mode):
    examined = check_network(network(Grouped(SPEC), Grouped(SPEC), PerBranch(WIDER)), mode=mode)
    assert [report.verdict for report in examined.results] == [Verdict.EQUIVALENT] * (6 + 3)
    experiments = {e.experiment for e in examined.results[0].evidence if e.arithmetic == "field"}
    assert {"outputs", "input gradient"} <= experiments
    assert (AFTER_SGD in experiments) == (mode == "train")


class Foreign(nn.Module):
    """A block in somebody else's words."""

    def __init__(self):
        super().__init__()
        self.spec = SPEC
        self.a, self.b, self.c = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.Conv2d(4, 4, 1)
        self.na, self.nb, self.nc = (nn.BatchNorm2d(4) for _ in range(3))

    def forward(self, x):
        y = self.nb(self.b(self.na(self.a(x)).relu())).relu()
        return (self.nc(self.c(y)) + x).relu()


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_somebody_elses_blocks_are_proved(mode):
    reports = check_network(network(Foreign(), Foreign()), mode=mode).results
    assert [report.verdict for report in reports] == [Verdict.EQUIVALENT] * 6


def test_blocks_of_one_kind_share_a_proof_and_compare_their_weights():
    first, _, second, *_ = check_network(network(Grouped(SPEC), Grouped(SPEC)), whole=False).results
    assert "its own proof for all weights" in first.reason
    assert "the proof of 2" in second.reason
    assert "bit by bit" in second.reason


def test_a_block_with_another_eps_has_its_own_proof():
    odd = BlockSpec(in_channels=4, cardinality=2, width=2, eps=1e-3)
    reports = check_network(network(Grouped(SPEC), Grouped(odd)), whole=False).results
    assert all("its own proof" in report.reason for report in reports)


def test_a_block_is_proved_at_both_parities_and_with_more_than_one_input():
    report = check_network(network(Grouped(SPEC)), whole=False).results[0]
    assert "(2, 4, 3, 4) and (1, 4, 4, 3)" in str(report)


@pytest.mark.parametrize(("size", "said"), [(2, "equal in float32"), (16, "mean over 64 is not exact")])
def test_a_network_runs_on_integers_where_its_mean_is_exact(size, said):
    model = network(Grouped(SPEC))
    found = find_blocks(model)
    converted, record = rewrite(model, found, "per-branch")
    report = compare_networks(model, converted, (1, 3, size, size), ("a", "b"), moved=record.moved)
    assert said in next(e.statement for e in report.evidence if e.arithmetic == "lattice")


def test_what_a_conversion_moves_are_the_converted_networks_tensors():
    model = network(Grouped(SPEC), Grouped(WIDER))
    converted, record = convert_network(model, "concatenated")
    moved = record.moved(dict(model.state_dict()))
    assert moved.keys() == converted.state_dict().keys()
    assert all(torch.equal(moved[name], tensor) for name, tensor in converted.state_dict().items())


def held(model, name):
    """The tensor of a converted network whose name ends like this."""
    return next(t.data for n, t in model.named_parameters() if n.endswith(name))


def swapped_branches(model):
    a, b = (held(model, f"branches.{i}.expand.weight") for i in (0, 1))
    kept = a.clone()
    a.copy_(b)
    b.copy_(kept)


def other_eps(model):
    norm = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    norm.eps = 1e-3


def one_ulp(model):
    weight = held(model, "branches.1.transform.conv.weight").view(-1)
    weight[0] = torch.nextafter(weight[0], torch.tensor(9.0))


@pytest.mark.parametrize("mistake", [swapped_branches, other_eps, one_ulp])
def test_a_mistake_in_a_converted_network_is_seen(mistake):
    model = network(Grouped(SPEC))
    converted, record = convert_network(model, "per-branch")
    mistake(converted)
    report = compare_networks(model, converted, (1, 3, 8, 8), ("a", "b"), moved=record.moved)
    assert report.verdict is Verdict.DIFFERENT
    assert "2" in str(report.place)


def test_a_kernel_that_is_wrong_on_one_side_is_seen_on_integers():
    class Off(nn.Module):
        def forward(self, x):
            return x + 1 if type(x) is torch.Tensor and x.dtype == torch.float32 else x

    model = nn.Sequential(Grouped(SPEC), nn.Identity())
    randomised(model, 0)
    converted, record = convert_network(model, "per-branch")
    converted[1] = Off()
    report = compare_networks(model, converted, (1, 4, 5, 5), ("a", "b"), moved=record.moved)
    assert report.verdict is Verdict.DIFFERENT
