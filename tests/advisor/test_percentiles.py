"""A distribution in a few figures."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.percentiles import percentiles, weighted_percentiles


def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed():
    found = percentiles(range(1, 101))
    assert (found.p50, found.p90, found.p95, found.p99, found.max) == (50, 90, 95, 99, 100)
    assert (found.count, found.mean) == (100, 50.5)


def test_where_the_share_falls_between_two_values_it_is_the_larger():
    found = percentiles(range(1, 12))
    assert (found.p50, found.p90, found.p95, found.p99) == (6, 10, 11, 11)


def test_one_value_is_all_of_them():
    found = percentiles([7.0])
    assert {found.p50, found.p90, found.p95, found.p99, found.max, found.mean} == {7.0}


def test_of_nothing_nothing_can_be_said():
    assert percentiles([]) is None
    assert weighted_percentiles([(3.0, 0)]) is None


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(1, 9)), min_size=1))
def test_weights_stand_for_repetition(pairs):
    repeated = percentiles([value for value, times in pairs for _ in range(times)])
    weighted = weighted_percentiles(pairs)
    assert (weighted.count, weighted.p50, weighted.p90, weighted.p95, weighted.p99, weighted.max) == (
        *(repeated.count, repeated.p50, repeated.p90, repeated.p95, repeated.p99, repeated.max),
    )
    assert weighted.mean == pytest.approx(repeated.mean)
