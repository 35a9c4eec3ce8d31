import math

import pytest

from exporter.past import Grid, Target, arranged, host_of, identity_of
from exporter.sources.prometheus import Series

TARGET = Target(kind="vllm", labels={"instance": "a:8000"}, without=frozenset({"pod"}), engines=frozenset({("m", "0")}))
OURS = Target(
    kind="headroom",
    labels={"instance": "a:9738", "engine": "127.0.0.1:8000"},
    without=frozenset(),
    engines=frozenset({("m", "0")}),
)
GRID = Grid(start_seconds=1_000.0, step_seconds=10.0, count=6)


def series(name, *values, **labels):
    """Return a series on the grid; None: no point there."""
    told = {"__name__": name, "instance": "a:8000", "model_name": "m", "engine": "0", **labels}
    points = tuple((1_000.0 + 10 * n, float(value)) for n, value in enumerate(values) if value is not None)
    return Series(labels=told, points=points)


def stamps(*values, **labels):
    return series("", *values, **labels)


def looks(rows, stamped, starts=(), replicas=("replica",), target=TARGET):
    found = arranged(target, rows, stamped, starts, GRID, replicas, None)
    return list(found["m", "0"])


RUNNING = series("vllm:num_requests_running", 1, 2, 3, 4, 5, 6)


def test_a_look_has_the_moment_at_which_it_was_scraped():
    found = looks([RUNNING], [stamps(998, 1_008, 1_018, 1_028, 1_038, 1_048)])
    assert [each.wall_seconds for each in found] == [998, 1_008, 1_018, 1_028, 1_038, 1_048]
    assert [each.reading.requests_running for each in found] == [1, 2, 3, 4, 5, 6]
    assert [each.continues for each in found] == [False, True, True, True, True, True]


def test_the_same_scrape_seen_twice_is_one_look():
    found = looks([RUNNING], [stamps(995, 995, 1_015, 1_015, 1_035, 1_035)])
    assert [each.wall_seconds for each in found] == [995, 1_015, 1_035]


def test_a_clock_that_was_set_back_gives_no_look_until_it_is_past():
    found = looks([RUNNING], [stamps(1_000, 1_010, 900, 910, 1_040, 1_050)])
    assert [each.wall_seconds for each in found] == [1_000, 1_010, 1_040, 1_050]


def test_after_a_hole_nothing_continues():
    found = looks([RUNNING], [stamps(1_000, 1_010, None, 1_030, 1_040, 1_050)])
    assert [each.continues for each in found] == [False, True, False, True, True]


def test_a_store_that_goes_on_showing_the_last_look_hides_no_hole():
    found = looks([RUNNING], [stamps(1_000, 1_010, 1_010, 1_010, 1_040, 1_050)])
    assert [(each.wall_seconds, each.continues) for each in found] == [
        *((1_000, False), (1_010, True)),
        *((1_040, False), (1_050, True)),
    ]


def test_of_a_pair_of_scrapers_the_one_that_saw_more_counts_and_the_other_fills_in():
    rows = [
        series("vllm:num_requests_running", 1, 1, 1, None, 1, 1, replica="a"),
        series("vllm:num_requests_running", 2, 2, None, 2, None, 2, replica="b"),
    ]
    read = [
        stamps(1_000, 1_010, 1_020, None, 1_040, 1_050, replica="a"),
        stamps(1_001, 1_011, None, 1_031, None, 1_051, replica="b"),
    ]
    found = looks(rows, read)
    assert [each.reading.requests_running for each in found] == [1, 1, 1, 2, 1, 1]
    assert all(each.continues for each in found[1:])


def test_of_two_spellings_the_newer_one_counts_and_the_older_fills_in():
    rows = [
        RUNNING,
        series("vllm:gpu_cache_usage_perc", 0.1, 0.1, 0.1, 0.1, 0.1, 0.1),
        series("vllm:kv_cache_usage_perc", None, None, None, 0.5, 0.5, 0.5),
    ]
    found = looks(rows, [stamps(1_000, 1_010, 1_020, 1_030, 1_040, 1_050)])
    assert [each.reading.kv_usage_ratio for each in found] == [0.1, 0.1, 0.1, 0.5, 0.5, 0.5]


def test_a_histogram_and_the_capacity_are_read_back():
    counts = [series("vllm:request_prompt_tokens_bucket", *[n] * 6, le=le) for le, n in (("100.0", 3), ("+Inf", 4))]
    rows = [
        RUNNING,
        *counts,
        series("vllm:request_prompt_tokens_sum", *[700] * 6),
        series("vllm:request_prompt_tokens_count", *[4] * 6),
        series("vllm:cache_config_info", *[1] * 6, block_size="16", num_gpu_blocks="768", kv_cache_size_tokens="12288"),
    ]
    (first, *_) = looks(rows, [stamps(1_000, 1_010, 1_020, 1_030, 1_040, 1_050)])
    told = first.reading.histograms["prompt_tokens"]
    assert (told.bounds, told.cumulative, told.sum, told.count) == ((100.0, math.inf), (3.0, 4.0), 700.0, 4.0)
    assert first.capacity_tokens == 12_288


@pytest.mark.parametrize("wrong", [-1.0, math.inf, -math.inf, 1e300])
def test_a_figure_that_cannot_be_is_not_believed(wrong):
    running = series("vllm:num_requests_running", 1, 2, wrong, 4, 5, 6)
    rows = [running, series("vllm:kv_cache_usage_perc", *[0.1, 0.2, 0.3, 1.5, wrong, 0.6])]
    found = looks(rows, [stamps(*range(1_000, 1_060, 10))])
    assert [each.reading.requests_running for each in found] == [1, 2, 4, 5, 6]
    assert [each.reading.kv_usage_ratio for each in found] == [0.1, 0.2, None, None, 0.6]
    assert [each.continues for each in found] == [False, True, False, True, True]


def test_our_own_series_tell_the_limit_and_the_limiter():
    same = {"instance": "a:9738", "engine": "127.0.0.1:8000", "dp_rank": "0"}
    rows = [
        series("headroom_engine_requests_running", *[4] * 6, **same),
        series("headroom_engine_max_num_seqs", *[64] * 6, **same),
        series("headroom_engine_kv_capacity_tokens", *[12_288] * 6, **same),
        series("headroom_engine_limiter", *[0] * 6, limiter="kv", **same),
        series("headroom_engine_limiter", *[1] * 6, limiter="max_num_seqs", **same),
    ]
    (first, *_) = looks(rows, [stamps(*range(1_000, 1_060, 10), **same)], target=OURS)
    assert (first.max_num_seqs, first.capacity_tokens, first.limiter) == (64, 12_288, "max_num_seqs")


def test_a_name_that_is_not_ours_to_read_is_left():
    found = looks([RUNNING, series("vllm:something_new_total", *[1] * 6)], [stamps(*range(1_000, 1_060, 10))])
    assert found[0].reading.totals == {}


def test_a_server_is_told_by_the_labels_that_it_has_and_by_those_that_it_has_not():
    assert TARGET.has({"instance": "a:8000", "job": "x"})
    assert not TARGET.has({"instance": "a:8000", "pod": "p"})
    assert TARGET.matchers == 'instance="a:8000",pod=""'


def test_labels_are_escaped_in_matchers():
    odd = Target(kind="vllm", labels={"instance": 'a"\\\n'}, without=frozenset(), engines=frozenset())
    assert odd.matchers == 'instance="a\\"\\\\\\n"'


def test_a_rank_and_a_copy_are_no_identity():
    labels = {"__name__": "x", "instance": "a:1", "engine": "0", "model_name": "m", "replica": "b"}
    assert identity_of(labels, ("replica",), "vllm") == {"instance": "a:1"}
    assert identity_of(labels, ("replica",), "headroom") == {"instance": "a:1", "engine": "0"}


@pytest.mark.parametrize(
    ("instance", "host"), [("a:8000", "a"), ("[::1]:80", "[::1]"), ("node-1", "node-1"), ("a:b", "a:b"), ("", "")]
)
def test_a_host_is_an_address_without_its_port(instance, host):
    assert host_of(instance) == host
