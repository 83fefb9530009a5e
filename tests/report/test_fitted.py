"""Tables fit their terminal by leaving columns out, and cut nothing."""

import io

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Column

from equivalence.arithmetic.difference import measure
from equivalence.report.fitted import Fitted
from equivalence.report.text import figures


def at_width(width, shown):
    paper = Console(file=io.StringIO(), width=width)
    paper.print(shown)
    return paper.file.getvalue()


@pytest.fixture(scope="module")
def table():
    a = torch.linspace(1, 2, 400)
    return figures([("per-branch / concatenated", [measure("transformed", a, a.flip(0))])])


@given(width=st.integers(80, 200))
def test_no_figure_is_cut_at_any_usual_width(table, width):
    shown = at_width(width, table)
    assert "…" not in shown
    assert "max-abs-diff" in shown
    assert "400 of 400" in shown
    assert all(len(line) <= width for line in shown.splitlines())


@given(width=st.integers(80, 200))
def test_what_is_left_out_is_named(table, width):
    shown = at_width(width, table)
    head, _, lacking = shown.partition("a wider terminal")
    for column in ("rms", "max-rel-diff", "max-ulp"):
        assert (column in head) != (column in lacking)


def test_where_there_is_room_nothing_is_left_out(table):
    assert "a wider terminal" not in at_width(200, table)
    assert "[0" in at_width(200, table)


def test_columns_go_in_the_order_that_is_asked_for():
    table = Fitted(tuple(Column(name * 8) for name in "abc"), [[("1", "2", "3")]], ("c" * 8, "a" * 8))
    assert [name for name in "abc" if name * 8 in at_width(30, table).partition("wider")[0]] == ["a", "b"]
    assert [name for name in "abc" if name * 8 in at_width(14, table).partition("wider")[0]] == ["b"]
