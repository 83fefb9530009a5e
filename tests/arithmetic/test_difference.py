"""Every figure is the one that plain Python finds, element by element; nothing is swallowed."""

import math
import struct

import pytest
import torch
from hypothesis import given, target
from hypothesis import strategies as st
from strategies import normal, seeds

from equivalence.arithmetic.difference import measure

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
INTEGERS = {torch.float64: ("d", "q"), torch.float32: ("f", "i"), torch.float16: ("e", "h")}
SIZES = {torch.float64: 64, torch.float32: 32, torch.float16: 16, torch.bfloat16: 16}


def place(value: float, dtype: torch.dtype) -> int:
    """How many floats of a dtype lie between zero and a value, with the value's sign."""
    if dtype is torch.bfloat16:  # the upper half of a float32
        return math.trunc(place(value, torch.float32) / 2**16)
    as_float, as_int = INTEGERS[dtype]
    (bits,) = struct.unpack(as_int, struct.pack(as_float, abs(value)))
    return bits if math.copysign(1, value) > 0 else -bits


def bit_patterns(dtype):
    """A few values of a dtype from all over: any bits that are no NaN."""
    size = SIZES[dtype]
    integers = {64: torch.int64, 32: torch.int32, 16: torch.int16}[size]
    bits = st.integers(-(2 ** (size - 1)), 2 ** (size - 1) - 1)
    values = st.lists(bits, min_size=1, max_size=6).map(lambda drawn: torch.tensor(drawn, dtype=integers).view(dtype))
    return values.filter(lambda tensor: not tensor.isnan().any())


def finite_pairs(dtype):
    def finite(pair):
        return all(tensor.isfinite().all() for tensor in pair)

    def of_one_length(pair):
        length = min(map(len, pair))
        return tuple(tensor[:length] for tensor in pair)

    return st.tuples(bit_patterns(dtype), bit_patterns(dtype)).map(of_one_length).filter(finite)


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_figures_are_those_of_plain_python(dtype, data):
    left, right = data.draw(finite_pairs(dtype))
    pairs = list(zip(left.tolist(), right.tolist(), strict=True))
    found = measure("x", left, right)
    differences = [abs(a - b) for a, b in pairs]
    target(float(found.max_ulp_diff), label="ulp")
    assert found.compared == len(pairs)
    assert found.differing == sum(a != b for a, b in pairs)
    assert found.equal == all(a == b for a, b in pairs)
    assert found.max_abs_diff == pytest.approx(max(differences), rel=1e-6)
    assert (found.left, found.right) == pairs[found.index[0]]
    assert found.largest == max(abs(value) for pair in pairs for value in pair)
    assert found.max_ulp_diff == max(abs(place(a, dtype) - place(b, dtype)) for a, b in pairs)
    assert found.non_finite == (0, 0)
    assert found.problem is None


@pytest.mark.parametrize("dtype", DTYPES)
@given(seed=seeds(), shape=st.lists(st.integers(1, 3), max_size=4))
def test_relative_difference_and_rms_are_those_of_plain_python(dtype, seed, shape):
    left, right = normal(shape, seed, dtype), normal(shape, seed + 1, dtype)
    pairs = list(zip(left.flatten().tolist(), right.flatten().tolist(), strict=True))
    found = measure("x", left, right)
    relative = max(abs(a - b) / max(abs(a), abs(b)) for a, b in pairs)
    rms = math.sqrt(sum((a - b) ** 2 for a, b in pairs) / len(pairs))
    assert found.max_rel_diff == pytest.approx(relative, rel=1e-6)
    assert found.rms == pytest.approx(rms, rel=1e-6)


@given(
    seed=seeds(),
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    dtype=st.sampled_from(DTYPES),
    data=st.data(),
)
def test_one_planted_difference_is_found_where_it_is(seed, shape, dtype, data):
    left = normal(shape, seed, dtype)
    index = tuple(data.draw(st.integers(0, size - 1)) for size in shape)
    right = left.clone()
    right[index] += 8
    found = measure("x", left, right)
    assert found.differing == 1
    assert found.index == index
    assert (found.left, found.right) == (float(left[index]), float(right[index]))
    assert found.max_abs_diff == float(right[index]) - float(left[index])


@given(seed=seeds(), shape=st.lists(st.integers(1, 4), max_size=4), dtype=st.sampled_from(DTYPES))
def test_equal_tensors_differ_in_nothing(seed, shape, dtype):
    left = normal(shape, seed, dtype)
    found = measure("x", left, left.clone())
    figures = (found.differing, found.max_abs_diff, found.max_rel_diff, found.max_ulp_diff)
    assert (*figures, found.rms) == (0, 0, 0, 0, 0)
    assert found.equal


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("left", "steps_left", "right", "steps_right", "ulp"),
    [
        (0.0, 0, -0.0, 0, 0),
        (0.0, 1, 0.0, 0, 1),
        (0.0, 1, -0.0, -1, 2),
        (0.0, 3, -0.0, -5, 8),
        (1.0, 0, 1.0, 1, 1),
        (1.0, 0, 1.0, -1, 1),
        (-1.0, 0, -1.0, -7, 7),
    ],
)
def test_ulps_count_the_floats_between(dtype, left, steps_left, right, steps_right, ulp):
    def walked(value, steps):
        tensor = torch.tensor([value], dtype=dtype)
        goal = torch.tensor([math.copysign(math.inf, steps)], dtype=dtype)
        for _ in range(abs(steps)):
            tensor = torch.nextafter(tensor, goal)
        return tensor

    found = measure("x", walked(left, steps_left), walked(right, steps_right))
    assert found.max_ulp_diff == ulp


def test_ulps_from_end_to_end_do_not_overflow():
    for dtype in DTYPES:
        ends = torch.tensor([torch.finfo(dtype).min, torch.finfo(dtype).max], dtype=dtype)
        found = measure("x", ends, ends.flip(0))
        assert found.max_ulp_diff == 2 * place(torch.finfo(dtype).max, dtype)


def test_a_difference_that_overflows_its_dtype_is_still_a_number():
    left, right = torch.tensor([3e38]), torch.tensor([-3e38])
    found = measure("x", left, right)
    assert found.max_abs_diff == float(left) - float(right)
    assert found.rms == found.max_abs_diff
    assert found.max_rel_diff == 2


NOT_FINITE = {
    "NaN is NaN": ([math.nan, 1], [math.nan, 1], 0, 0.0, (1, 1)),
    "infinity is infinity": ([math.inf, 1], [math.inf, 1], 0, 0.0, (1, 1)),
    "NaN is no number": ([math.nan, 1], [1, 1], 1, math.inf, (1, 0)),
    "a number is no NaN": ([1, 1], [1, math.nan], 1, math.inf, (0, 1)),
    "infinity is no number": ([math.inf, 1], [1, 1], 1, math.inf, (1, 0)),
    "infinities have a sign": ([math.inf, 1], [-math.inf, 1], 1, math.inf, (1, 1)),
    "infinity is not NaN": ([math.inf, 1], [math.nan, 1], 1, math.inf, (1, 1)),
    "the rest is compared": ([math.nan, 1], [math.nan, 1.5], 1, 0.5, (1, 1)),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", NOT_FINITE)
def test_nan_and_infinity_are_compared_and_counted(case, dtype):
    left, right, differing, max_abs_diff, non_finite = NOT_FINITE[case]
    found = measure("x", torch.tensor(left, dtype=dtype), torch.tensor(right, dtype=dtype))
    assert found.differing == differing
    assert found.max_abs_diff == max_abs_diff
    assert found.max_rel_diff == {0: 0, 0.5: pytest.approx(1 / 3)}.get(max_abs_diff, math.inf)
    assert found.non_finite == non_finite
    assert found.largest == max(v for v in left + right if math.isfinite(v))


def test_an_element_that_is_infinitely_far_is_the_one_shown():
    found = measure("x", torch.tensor([0.0, 1.0, 2.0]), torch.tensor([9.0, math.nan, 2.0]))
    assert found.index == (1,)
    assert found.left == 1.0
    assert math.isnan(found.right)


@pytest.mark.parametrize(
    ("right", "problem"),
    [
        (torch.zeros(3, 2), "shape (2, 3) against (3, 2)"),
        (torch.zeros(2), "shape (2, 3) against (2,)"),
        (torch.zeros(2, 3).double(), "dtype torch.float32 against torch.float64"),
    ],
)
def test_shapes_and_dtypes_that_differ_are_said(right, problem):
    found = measure("x", torch.zeros(2, 3), right)
    assert found.problem == problem
    assert not found.equal
    assert found.max_abs_diff == math.inf


@pytest.mark.parametrize("shape", [(0,), (2, 0, 3)])
def test_comparing_nothing_is_an_error(shape):
    with pytest.raises(ValueError) as refused:  # noqa: PT011  # the message is compared below
        measure("output", torch.zeros(shape), torch.zeros(shape))
    assert str(refused.value) == f"output has shape {shape}: no elements, nothing compared"


def test_a_number_without_axes_has_the_empty_index():
    found = measure("x", torch.tensor(1.0), torch.tensor(3.0))
    assert (found.index, found.max_abs_diff) == ((), 2)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool])
def test_integers_and_booleans_are_compared(dtype):
    found = measure("x", torch.tensor([0, 1, 1]).to(dtype), torch.tensor([0, 1, 0]).to(dtype))
    assert (found.differing, found.max_abs_diff, found.index) == (1, 1, (2,))
    assert found.max_ulp_diff is None


def test_integers_that_no_float_tells_apart_differ():
    found = measure("x", torch.tensor([2**60]), torch.tensor([2**60 + 1]))
    assert (found.differing, found.max_abs_diff) == (1, 1)


def test_both_parts_of_complex_numbers_are_compared():
    found = measure("x", torch.tensor([1 + 1j, 2 + 2j]), torch.tensor([1 + 1j, 2 + 5j]))
    assert (found.differing, found.max_abs_diff, found.index) == (1, 3, (1, 1))


@given(seed=seeds())
def test_tensors_stay_as_they_are(seed):
    left, right = normal((2, 3), seed), normal((2, 3), seed + 1)
    left[0, 0] = math.nan
    before = left.clone(), right.clone()
    measure("x", left, right)
    assert torch.equal(left.nan_to_num(7), before[0].nan_to_num(7))
    assert torch.equal(right, before[1])


def test_tensors_in_another_order_of_memory_are_compared_by_index():
    left = normal((2, 3, 4), 0)
    right = left.transpose(0, 2).contiguous().transpose(0, 2)
    assert measure("x", left, right).equal
    right[1, 2, 0] += 1
    assert measure("x", left, right).index == (1, 2, 0)
