"""A server's metrics while it is under load."""

import time

import pytest

from exporter.bench.watch import Watch, look_of
from exporter.connection import Connection
from exporter.sources.vllm import Server, VllmSource, parse_page, read_engines
from tests.exporter.bench.server_standin import server_standin
from tests.exporter.sources.test_vllm import CAPTURES


def looks_of(url):
    source = VllmSource(engine="x", url=url, connection=Connection(url, headers={}))
    return Watch(source, time.monotonic, interval_seconds=0.01)


def test_it_looks_at_the_start_again_and_again_and_at_the_end():
    with server_standin() as (url, _), looks_of(url) as watch:
        while len(watch.looks) < 5:
            time.sleep(0.01)
    moments = [each.seconds for each in watch.looks]
    assert moments == sorted(moments) and len(moments) >= 6
    assert watch.between(moments[1], moments[3]) == watch.looks[1:4]


def test_a_server_without_metrics_leaves_no_looks_and_a_reason():
    with server_standin(metrics=False) as (url, _), looks_of(url) as watch:
        pass
    assert (watch.looks, watch.problem) == ([], "http_404")


def test_a_page_of_vllm_says_all_that_is_asked_of_it():
    page = parse_page((CAPTURES / "0.32.0" / "single_kv_scarce_3.metrics").read_text())
    found = look_of(read_engines(page, Server(vllm_version="0.32.0"), engine="x", url="http://x"), 3.0)
    assert found.seconds == 3.0
    for name in found.__slots__:
        assert getattr(found, name) is not None, name


def test_engines_of_one_server_are_added_and_their_usage_is_averaged():
    page = parse_page((CAPTURES / "0.32.0" / "single_kv_scarce_3.metrics").read_text())
    (reading,) = read_engines(page, Server(vllm_version="0.32.0"), engine="x", url="http://x")
    one, two = look_of([reading], 0.0), look_of([reading, reading], 0.0)
    assert two.running == 2 * one.running
    assert two.kv_capacity_tokens == 2 * one.kv_capacity_tokens
    assert two.kv_usage_ratio == pytest.approx(one.kv_usage_ratio)
    assert (two.steps, two.queue_seconds.count) == (2 * one.steps, 2 * one.queue_seconds.count)
