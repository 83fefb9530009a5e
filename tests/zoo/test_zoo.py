"""Published networks: every ResNeXt block recognised, converted and converted back; others refused.

Whole networks run at 32×32, or at the one size that they take. Every block is proved in its other forms,
or shares a proof and is compared bit by bit under the correspondence; then the whole networks are proved.
"""

import pytest
import torch

from equivalence.blocks.initialize import as_if_trained
from equivalence.blocks.recognize import find_blocks
from equivalence.verdict.network import check_network
from equivalence.weights.convert import convert_network

timm = pytest.importorskip("timm")
models = pytest.importorskip("torchvision.models")
pytorchcv = pytest.importorskip("pytorchcv.model_provider")

NETWORKS = {
    "torchvision resnext50_32x4d": (lambda: models.resnext50_32x4d(), 16, 32, 25_028_904),
    "torchvision resnext101_32x8d": (lambda: models.resnext101_32x8d(), 33, 32, 88_791_336),
    "torchvision resnext101_64x4d": (lambda: models.resnext101_64x4d(), 33, 32, 83_455_272),
    "timm resnext50_32x4d": (lambda: timm.create_model("resnext50_32x4d"), 16, 32, 25_028_904),
    "timm resnext50d_32x4d": (lambda: timm.create_model("resnext50d_32x4d"), 16, 32, None),
    "timm seresnext26d_32x4d": (lambda: timm.create_model("seresnext26d_32x4d"), 8, 32, None),
    "timm resnext26ts": (lambda: timm.create_model("resnext26ts"), 8, 32, None),
    "timm regnetx_002": (lambda: timm.create_model("regnetx_002"), 13, 32, None),
    "pytorchcv resnext14_32x4d": (lambda: pytorchcv.get_model("resnext14_32x4d"), 4, 224, None),
    "pytorchcv resnext20_16x4d_cifar10": (lambda: pytorchcv.get_model("resnext20_16x4d_cifar10"), 6, 32, None),
}
REFUSED = {
    "regnety_002": "gate",
    "res2next50": "pass the transform by|sum stands|mixes",
    "resnest14d": "gate",
    "skresnext50_32x4d": "gate",
    "legacy_seresnet18": "two convolutions",
    "resnet18": "two convolutions",
}


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_every_block_is_recognised_and_every_form_has_the_published_function(name):
    make, count, size, published = NETWORKS[name]
    torch.manual_seed(0)
    network = make().eval()
    shape = (2, 3, size, size)
    found = find_blocks(network, shape)
    assert len(found.blocks) == count
    assert not found.refused
    x = torch.randn(1, 3, size, size)
    # A network of 300 MB is converted into one form only: each is the same code.
    forms = ("per-branch", "concatenated") if parameters(network) < 50e6 else ("concatenated",)
    with torch.no_grad():
        expected = network(x)
        for form in forms:
            converted, record = convert_network(network, form, shape)
            assert len(record.converted) == count
            assert parameters(converted) == parameters(network)
            assert published in (None, parameters(converted))
            torch.testing.assert_close(converted(x), expected, rtol=1e-3, atol=1e-4)
            back, _ = convert_network(converted, "grouped", shape)
            assert all(torch.equal(a, b) for a, b in zip(network.parameters(), back.parameters(), strict=True))
            del converted, back


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_three_forms_is_refused_for_the_right_reason(name):
    found = find_blocks(timm.create_model(name).eval(), (2, 3, 64, 64))
    assert not found.blocks
    assert found.refused
    for refusal in found.refused:
        assert any(word in refusal.reason for word in REFUSED[name].split("|")), str(refusal)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_block_and_the_whole_are_proved(name):
    make, count, size, _ = NETWORKS[name]
    # Some publish a last gamma of zero, with which nothing would be compared.
    network = as_if_trained(make(), 0).eval()
    # At 224×224 there are more values than the random functions' bits bound; larger networks take minutes.
    whole = parameters(network) < 50e6 and size < 224
    examined = check_network(network, input_shape=(1, 3, size, size), whole=whole, gradients=whole)
    assert len(examined.results) == 2 * (count + whole)
    assert [str(report) for report in examined.results if not report] == []
