"""The NumPy reference agrees with every torch form, and with itself in every number type."""

import functools
import subprocess
import sys
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import block_specs, inputs, randomised, seeds

from equivalence.blocks.forms import FORMS
from equivalence.blocks.reference import ReferenceInputError, reference
from equivalence.blocks.spec import ACTIVATIONS, BlockSpec
from equivalence.weights.correspondence import gather

RATIONAL = (
    "relu",
    "relu6",
    "leaky_relu",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "hardshrink",
    "softshrink",
    "softsign",
)


def torch_block(spec, form, seed):
    """A form in float64 whose every tensor was drawn, and an input for it."""
    return randomised(FORMS[form](spec).double(), seed), inputs(spec, seed)


def canonical(block):
    tensors = gather(block.form, block.state_dict(), block.spec.cardinality)
    return {name: tensor.numpy().copy() for name, tensor in tensors.items()}


def whole_block(spec, seed, low=-3, high=4):
    """Small whole numbers for every weight without a norm, in float64, and an input."""
    block, x = torch_block(spec, "grouped", seed)
    generator = torch.Generator().manual_seed(seed)
    for tensor in (*block.state_dict().values(), x):
        tensor.copy_(torch.randint(low, high, tensor.shape, generator=generator))
    return block, x


def as_integers(array):
    return np.frompyfunc(int, 1, 1)(array)


def as_fractions(array):
    return np.asarray(np.frompyfunc(Fraction, 1, 1)(array), dtype=object)


def as_mpf(array):
    return np.asarray(np.frompyfunc(mpmath.mpf, 1, 1)(array), dtype=object)


def each(convert, weights):
    """The weights in another number type; counters are always integers."""
    return {n: w if n.endswith("tracked") else convert(w) for n, w in weights.items()}


def assert_close(ours, theirs, relative=1e-12):
    ours, theirs = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= relative * max(np.abs(theirs).max(), 1e-3)


def point(**fields):
    """One number in, one number out: reduce is the activation of its input."""
    plain = {"in_channels": 1, "cardinality": 1, "width": 1, "kernel_size": 1, "norm": "none"}
    spec = BlockSpec(**plain | {"spatial_dims": 1, "shortcut": "none"} | fields)
    names = {"reduce.conv.weight": 4, "transform.conv.weight": 4, "expand.weight": 4}
    return spec, {name: np.ones((1,) * axes, dtype=int) for name, axes in names.items()}


def activated(name, x):
    spec, weights = point(activation=name)
    return reference(spec, weights, x[None, None]).reduced[0, 0, 0]


@pytest.mark.parametrize("form", FORMS)
@given(spec=block_specs(), seed=seeds())
def test_in_evaluation_mode_every_form_computes_what_the_reference_does(form, spec, seed):
    block, x = torch_block(spec, form, seed)
    result = reference(spec, canonical(block), x.numpy())
    with torch.no_grad():
        assert_close(result.output, block.eval()(x))
        assert_close(result.aggregated, block.aggregated(x))
    assert result.statistics == {}


@pytest.mark.parametrize("form", FORMS)
@given(spec=block_specs(norm="batch"), seed=seeds())
def test_in_training_mode_outputs_and_statistics_agree(form, spec, seed):
    block, x = torch_block(spec, form, seed)
    result = reference(spec, canonical(block), x.numpy(), training=True)
    with torch.no_grad():
        assert_close(result.output, block.train()(x))
    after = canonical(block)
    for name, statistic in result.statistics.items():
        assert_close(statistic, after[name])
    kept = ("running_mean", "running_var", "num_batches_tracked")
    assert result.statistics.keys() == {name for name in after if name.endswith(kept)}


@given(spec=block_specs(), seed=seeds())
def test_the_stages_of_every_branch_are_those_of_the_grouped_form(spec, seed):
    block, x = torch_block(spec, "grouped", seed)
    result = reference(spec, canonical(block), x.numpy())
    with torch.no_grad():
        reduced = block.eval().reduce(x)
        transformed = block.transform(reduced)
    assert_close(result.reduced, reduced.unflatten(1, (spec.cardinality, spec.width)))
    assert_close(result.transformed, transformed.unflatten(1, (spec.cardinality, spec.width)))


@pytest.mark.parametrize("training", [False, True])
def test_the_reference_leaves_what_it_is_given_alone(training):
    block, x = torch_block(BlockSpec(in_channels=3, cardinality=2, width=2), "grouped", seed=0)
    weights = canonical(block)
    before = {name: weight.copy() for name, weight in weights.items()}
    reference(block.spec, weights, x.numpy(), training=training)
    for name, weight in weights.items():
        np.testing.assert_array_equal(weight, before[name], err_msg=name)


def test_every_single_tensor_matters_to_the_reference():
    fields = {"bias": (True, True, True), "stride": 2, "activation": "silu"}
    spec = BlockSpec(in_channels=3, cardinality=2, width=2, **fields)
    block, x = torch_block(spec, "grouped", seed=0)
    weights = canonical(block)
    right = reference(spec, weights, x.numpy()).output
    counters = {name for name in weights if name.endswith("tracked")}
    for name in weights.keys() - counters:
        reversed_ = weights | {name: np.flip(weights[name]).copy()}
        wrong = reference(spec, reversed_, x.numpy()).output
        assert np.abs(wrong - right).max() > 1e-3, name


def test_branches_that_are_expanded_by_each_others_weights_are_seen():
    block, x = torch_block(BlockSpec(in_channels=3, cardinality=2, width=2), "per-branch", seed=0)
    weights = canonical(block)
    weights["expand.weight"] = weights["expand.weight"][::-1]
    wrong = reference(block.spec, weights, x.numpy()).output
    with pytest.raises(AssertionError):
        assert_close(wrong, block.eval()(x).detach())


def test_permuting_whole_branches_changes_nothing():
    block, x = torch_block(BlockSpec(in_channels=3, cardinality=3, width=2), "per-branch", seed=0)
    weights = canonical(block)
    in_branches = {n for n, w in weights.items() if n.startswith(("reduce", "transform", "expand"))}
    permuted = {n: w[[2, 0, 1]] if n in in_branches and w.ndim else w for n, w in weights.items()}
    assert_close(
        reference(block.spec, permuted, x.numpy()).output,
        reference(block.spec, weights, x.numpy()).output,
    )


@given(
    spec=st.builds(dict, activation=st.sampled_from(["relu", "relu6", "hardtanh"])).flatmap(
        lambda fields: block_specs(norm="none", kernel_size=3, spatial_dims=2, **fields)
    ),
    seed=seeds(),
)
def test_over_whole_numbers_all_number_types_and_torch_agree_exactly(spec, seed):
    block, x = whole_block(spec, seed)
    weights, x = canonical(block), x.numpy()
    with torch.no_grad():
        exact = block(torch.from_numpy(x)).numpy()
    for convert in (lambda a: a.astype(np.int64), as_integers, as_fractions, as_mpf):
        output = reference(spec, each(convert, weights), convert(x)).output
        assert (output == exact).all()


@given(activation=st.sampled_from(RATIONAL), bias=st.tuples(*[st.booleans()] * 3), seed=seeds())
def test_over_fractions_with_a_norm_nothing_is_rounded(activation, bias, seed):
    fields = {"in_channels": 2, "cardinality": 2, "width": 1, "spatial_dims": 1}
    spec = BlockSpec(**fields, activation=activation, bias=bias)
    block, x = torch_block(spec, "grouped", seed)
    weights = each(as_fractions, canonical(block))
    for name in weights:
        if name.endswith("running_var"):
            roots = np.frompyfunc(lambda v: Fraction(round(v * 16) + 1, 16), 1, 1)(weights[name])
            weights[name] = roots**2 - Fraction(spec.eps)
    exact = reference(spec, weights, as_fractions(x.numpy()))
    rounded = reference(spec, each(lambda a: a.astype(float), weights), x.numpy())
    assert all(isinstance(value, (int, Fraction)) for value in exact.output.flat)
    assert_close(exact.output, rounded.output)


def test_integers_with_a_norm_become_the_fractions_that_they_are():
    # Every norm sees two values ±1 around their mean: variance 1, and 1 + 9/16 = (5/4)².
    spec, weights = point(norm="batch", eps=9 / 16, momentum=0.5)
    for path, axes in {"reduce.norm": 2, "transform.norm": 2, "norm": 1}.items():
        norm = {"weight": Fraction(5, 4), "bias": 1, "running_mean": 4, "running_var": 6}
        weights |= {f"{path}.{n}": np.full((1,) * axes, v, object) for n, v in norm.items()}
        weights[f"{path}.num_batches_tracked"] = np.array(7)
    result = reference(spec, weights, np.array([[[-1]], [[1]]]), training=True)
    assert result.output.ravel().tolist() == [0, 2]
    assert all(isinstance(value, Fraction) for value in result.aggregated.flat)
    # Unbiased, the variance is 2: halfway from 6 lies 4; halfway from 4 to a mean of 0 lies 2.
    assert result.statistics["reduce.norm.running_var"].tolist() == [[4]]
    assert result.statistics["reduce.norm.running_mean"].tolist() == [[2]]
    assert result.statistics["norm.num_batches_tracked"] == 8


def test_no_sum_of_integers_overflows():
    spec, weights = point()
    big = np.array([[[2**62]]])
    weights["expand.weight"] = weights["expand.weight"] * 8
    assert reference(spec, weights, big).output.item() == 2**65


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@given(spec=block_specs(spatial_dims=1, kernel_size=3), seed=seeds())
def test_mpmath_confirms_the_floats(training, spec, seed):
    block, x = torch_block(spec, "grouped", seed)
    weights = canonical(block)
    rounded = reference(spec, weights, x.numpy(), training=training)
    with mpmath.workdps(40):
        precise = reference(spec, each(as_mpf, weights), as_mpf(x.numpy()), training=training)
    assert all(isinstance(value, mpmath.mpf) for value in precise.output.flat)
    assert_close(precise.output, rounded.output)
    for name, statistic in precise.statistics.items():
        assert_close(statistic, rounded.statistics[name])


def test_mpmath_computes_in_the_precision_of_its_context():
    spec, weights = point(activation="tanh")
    with mpmath.workdps(60):
        x = mpmath.mpf(1) / 3
        reduced = reference(spec, weights, np.array([[[x]]], dtype=object)).reduced.item()
        assert abs(reduced - mpmath.tanh(x)) < mpmath.mpf(10) ** -59


GRID = np.array([0.0, 0.5, 1.0, 3.0, 6.0, 20.0, 1e-9, 0.3, 2.9, 5.9, 7.5, 19.9, 20.1, 30.0, 700.0, 800.0])
GRID = np.concatenate([GRID, -GRID])


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_torchs(name):
    theirs = getattr(torch.nn.functional, name)(torch.from_numpy(GRID)).numpy()
    np.testing.assert_allclose(activated(name, GRID), theirs, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_over_mpmath_is_that_over_floats(name):
    with mpmath.workdps(30):
        precise = activated(name, as_mpf(GRID))
    np.testing.assert_allclose(
        precise.astype(float), activated(name, GRID), rtol=1e-12, atol=1e-15
    )  # fmt: skip


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_passes_nan_on_as_torchs_does(name):
    nan = torch.nn.functional.__dict__[name](torch.tensor([float("nan")], dtype=torch.float64))
    assert np.isnan(activated(name, np.array([np.nan]))) == torch.isnan(nan).numpy()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_over_fractions_an_activation_is_exact_or_refused(name):
    x = as_fractions(GRID)
    if name in RATIONAL:
        exact = activated(name, x)
        assert all(isinstance(value, (int, Fraction)) for value in exact)
        np.testing.assert_allclose(exact.astype(float), activated(name, GRID), rtol=1e-15)
    else:
        with pytest.raises(ReferenceInputError, match=r"needs \w+, whose values are no fractions"):
            activated(name, x)


def test_a_float_keeps_its_precision():
    spec, weights = point(activation="gelu")
    assert reference(spec, weights, np.ones((1, 1, 1), np.float32)).output.dtype == np.float32


ONE = np.array([[[Fraction(1, 3)]]], dtype=object)


def normed(**changes):
    spec, weights = point(norm="batch", eps=0.5)
    for path, axes in {"reduce.norm": 2, "transform.norm": 2, "norm": 1}.items():
        names = ("weight", "bias", "running_mean", "running_var")
        weights |= {f"{path}.{name}": np.ones((1,) * axes, int) for name in names}
        weights[f"{path}.num_batches_tracked"] = np.array(0)
    return functools.partial(reference, spec, weights | changes)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: normed()(ONE),
            "3/2 has no rational root, and a norm over integers or fractions divides by the root "
            "of variance + eps; give x and weights as mpmath.mpf, or a variance that makes it a "
            "square",
        ),
        (
            lambda: activated("gelu", ONE[0, 0]),
            "the activation needs erf, whose values are no fractions; give x and weights as mpmath.mpf or as floats",
        ),
        (
            lambda: normed(**{"norm.bias": np.ones(1)})(ONE),
            "x holds fractions but norm.bias holds floats; give all in one number type "
            "(fractions.Fraction takes a float exactly)",
        ),
        (
            lambda: normed()(np.ones((1, 1, 1), dtype=complex)),
            "x holds complex128; the reference computes with floats, integers, fractions.Fraction and mpmath.mpf",
        ),
        (
            lambda: normed()(np.array([[["1"]]], dtype=object)),
            "x holds str; the reference computes with floats, integers, fractions.Fraction and mpmath.mpf",
        ),
        (
            lambda: normed()(np.ones((1, 1, 1)), training=True),
            "reduce.norm has 1 value per channel in this batch of shape (1, 1, 1), and training "
            "needs at least 2; give a larger batch",
        ),
        (
            lambda: normed(**{"norm.bias": np.ones((1, 1))})(ONE),
            "norm.bias has shape (1, 1), not (1,)",
        ),
        (
            lambda: normed(**{"expand.bias": np.ones(1)})(ONE),
            "weights hold expand.bias, which this block does not have",
        ),
        (
            lambda: reference(point()[0], {}, ONE),
            "weights lack reduce.conv.weight of shape (1, 1, 1, 1)",
        ),
        (lambda: normed()(np.ones((1, 2, 1))), "x has shape (1, 2, 1), not (N, 1, L)"),
        (
            lambda: reference(*point(), np.ones((1, 1, 1, 1))),
            "x has shape (1, 1, 1, 1), not (N, 1, L)",
        ),
    ],
)
def test_what_cannot_be_computed_is_said(call, message):
    with pytest.raises(ReferenceInputError) as caught:
        call()
    assert str(caught.value) == message


def test_the_reference_needs_no_torch():
    code = "import sys, equivalence.blocks.reference; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
