"""What a real Prometheus and a real VictoriaMetrics keep of the same pages gives the same answers, those of who watched."""

import json
import shutil
import subprocess
import sys
import time
from dataclasses import fields

import pytest

from advisor.load import Sums
from advisor.policy import Policy
from exporter.config import PrometheusConfig
from exporter.fleet import read_fleet
from exporter.past import Wanted, loads_of, located, span_of
from exporter.sources.prometheus import Prometheus
from tests.end_to_end.prometheus import filled, prometheus
from tests.end_to_end.victoria_metrics import victoria_metrics
from tests.exporter.fleets import HOURS, kept
from tests.exporter.pasts import watched_live

STORES = [
    pytest.param("prometheus", marks=pytest.mark.needs_prometheus),
    pytest.param("victoria-metrics", marks=pytest.mark.needs_victoria_metrics),
]


@pytest.fixture(scope="module")
def past():
    """Six hours that ended a while ago, scraped by a pair of servers."""
    return kept(float(int(time.time()) // 30 * 30 - 1_200), replicas=("a", "b"))


@pytest.fixture(scope="module", params=STORES)
def store(request, past, tmp_path_factory):
    """The address of a store that keeps it."""
    if not shutil.which(request.param):
        pytest.skip(f"needs {request.param} (Debian package {request.param})")
    directory = tmp_path_factory.mktemp(request.param)
    if request.param == "prometheus":
        filled(directory, past.lines)
        with prometheus(directory) as running:
            yield running.url
    else:
        with victoria_metrics(directory) as running:
            running.fill(past.lines)
            yield running.url


def wanted(address, page, model):
    started = next(float(line.split()[1]) for line in page.splitlines() if line.startswith("process_start"))
    return Wanted(
        engine="127.0.0.1:8000",
        url="http://127.0.0.1:8000",
        keys=frozenset({(model, "0")}),
        started_at_seconds=started,
        max_num_seqs={(model, "0"): 64.0},
        gpu_uuids=frozenset(),
        host_names=frozenset(),
    )


def seeded(store, past, address, model):
    client = Prometheus(PrometheusConfig(url=store))
    begin, end = past.end_seconds - 3600 * HOURS, past.end_seconds
    server = wanted(address, past.pages[address][-1][1], model)
    target = located(client, server, begin, end)
    assert target.instance == address
    span = span_of(client, target, begin, end, least_step_seconds=30.0)
    load = loads_of(client, target, span, Policy(), wanted=server)[model, "0"]
    client.close()
    return load


@pytest.mark.parametrize(("address", "model"), [("10.0.0.1:8000", "crowded"), ("10.0.0.2:8000", "held-up")])
def test_the_past_in_a_store_is_what_was_there_to_be_seen(store, past, address, model):
    found, live = seeded(store, past, address, model), watched_live(past.pages[address], holes=75.0)
    for each in fields(Sums):
        assert getattr(found.slow, each.name) == pytest.approx(getattr(live.slow, each.name), rel=0.01), each.name
    assert found.prompt_tokens.counts == pytest.approx(live.prompt_tokens.counts, rel=0.01, abs=0.5)
    assert found.demand(0.999) == live.demand(0.999)
    assert found.watched_finished == pytest.approx(live.watched_finished, rel=0.01)


def test_probe(store, past):
    client = Prometheus(PrometheusConfig(url=store, history_hours=6))
    seen = read_fleet(client, Policy(), now_seconds=past.end_seconds, window_seconds=6*3600.0, progress=print)
    from advisor.fleet import judge_fleet
    fleet = judge_fleet(seen.engines, seen.gpus, Policy())
    import pprint
    pprint.pprint(seen); pprint.pprint(fleet)
    from exporter.cli.fleet import show
    from rich.console import Console
    show(Console(width=80, highlight=False), fleet, seen, (), store, 6*3600)
    assert 0
