"""The same pages kept by a real Prometheus and a real VictoriaMetrics: both answer what a daemon that watched knows."""

import json
import time
from contextlib import ExitStack, contextmanager
from dataclasses import fields

import pytest

from advisor.load import Sums
from advisor.policy import Policy
from exporter.cli.fleet import run_fleet
from exporter.config import Config, PrometheusConfig
from exporter.past import Wanted, loads_of, located, span_of
from exporter.sources.prometheus import Prometheus
from tests.end_to_end.prometheus import filled, prometheus
from tests.end_to_end.victoria_metrics import victoria_metrics
from tests.exporter.daemon import FakeServer, daemon
from tests.exporter.fleets import HOURS, STEP_SECONDS, kept
from tests.exporter.pasts import watched_live

STORES = [
    pytest.param("prometheus", marks=pytest.mark.needs_prometheus),
    pytest.param("victoria-metrics", marks=pytest.mark.needs_victoria_metrics),
]


@pytest.fixture(scope="module")
def past():
    """Six hours that ended a while ago, scraped by a pair of servers."""
    return kept(float(int(time.time()) // 30 * 30 - 1_200), replicas=("a", "b"))


@contextmanager
def opened(name, past, directory):
    """Yield the address of a store of this kind that keeps it."""
    if name == "prometheus":
        filled(directory, past.lines)
        with prometheus(directory) as running:
            yield running.url
    else:
        with victoria_metrics(directory) as running:
            running.fill(past.lines)
            yield running.url


@pytest.fixture(scope="module")
def address_of(past, tmp_path_factory):
    """Return where a store of this kind is; each is filled once."""
    with ExitStack() as running:
        found = {}

        def address(name):
            if name not in found:
                found[name] = running.enter_context(opened(name, past, tmp_path_factory.mktemp(name)))
            return found[name]

        yield address


@pytest.fixture(params=STORES)
def store(request, address_of):
    return address_of(request.param)


def wanted(model, started):
    """Return what a daemon knows of a server that runs on its own host."""
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
    _, page = past.pages[address][-1]
    started = next(float(line.split()[1]) for line in page.splitlines() if line.startswith("process_start"))
    server = wanted(model, started)
    target = located(client, server, begin, end)
    assert target.instance == address
    span = span_of(client, target, begin, end, least_step_seconds=STEP_SECONDS)
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


def fleet_of(store, past, capsys, *, as_json=True, **config):
    """Return what ``advise --fleet`` prints, as data or for people."""
    asked = Config(prometheus=PrometheusConfig(url=store, history_hours=HOURS, **config))
    assert run_fleet(asked, as_json=as_json, now_seconds=past.end_seconds) == 1
    said = capsys.readouterr().out
    return json.loads(said) if as_json else said


def test_a_fleet_is_judged_by_what_its_servers_did(store, past, capsys):
    data = fleet_of(store, past, capsys)
    said = {each["model_name"]: each for each in data["engines"]}
    assert {model: each["verdict"] for model, each in said.items()} == {
        "": "down",
        "crowded": "overfull",
        "fitting": "overfull",
        "held-up": "held_up",
        "quiet": "idle",
    }
    assert data["copies"] == 1  # "fitting" is scraped as well as watched
    for address, model in (("10.0.0.1:8000", "crowded"), ("10.0.0.3:8000", "quiet")):
        live = watched_live(past.pages[address], holes=75.0)
        assert said[model]["finished"] == pytest.approx(live.watched_finished, rel=0.02)
        assert said[model]["wanted"] == live.demand(0.999)
    assert (data["sums"]["engines"], data["sums"]["up"], data["sums"]["mis_sized"]) == (5, 4, 3)
    assert [each["gpu"] for each in data["gpus"] if each["is_idle"]] == ["1"]
    text = fleet_of(store, past, capsys, as_json=False)
    assert "5 engines in the last 6.0 h, 4 up: 3 mis-sized, 1 idle" in text
    assert "max-num-seqs 64 -> 16 (kv)" in " ".join(text.split())


def test_matchers_narrow_the_fleet(store, past, capsys):
    data = fleet_of(store, past, capsys, selector='instance=~"10.0.0.[12]:8000"')
    assert {each["model_name"] for each in data["engines"]} == {"crowded", "held-up"}
    assert data["gpus"] == []


def test_a_store_without_such_series_says_so(store, past, capsys):
    asked = Config(prometheus=PrometheusConfig(url=store, history_hours=HOURS, selector='instance="nowhere"'))
    assert run_fleet(asked, as_json=False, now_seconds=past.end_seconds) == 1
    assert "has no engine of the last 6.0 h" in capsys.readouterr().out
    client = Prometheus(asked.prometheus)
    begin = past.end_seconds - 3600 * HOURS
    assert located(client, wanted("held-up", 0.0), begin, past.end_seconds) == "it has no series of this engine"
    client.close()


def test_a_window_before_anything_was_kept_is_empty(store, past):
    client = Prometheus(PrometheusConfig(url=store))
    end = past.end_seconds - 3600 * (HOURS + 48)
    assert located(client, wanted("held-up", 0.0), end - 3600, end) == "it has no series of this engine"
    client.close()


def test_a_daemon_begins_with_what_the_store_remembers(store, past):
    """A daemon that is started beside a server for the first time, hours after that was."""
    _, page = past.pages["10.0.0.2:8000"][-1]
    server = FakeServer()
    server.page(page, model="held-up")
    live = watched_live(past.pages["10.0.0.2:8000"], holes=75.0)
    try:
        with daemon("--engine", server.url, "--poll-interval", "0.5", "--prometheus", store) as running:

            def seen():
                for each in json.loads(running.get("/api/v1/advice"))["engines"]:
                    if each["observed"] and each["observed"]["finished_requests"] > 1_000:
                        return each["observed"]
                return None

            observed = running.wait_for(seen, 90)
            running.wait_for(lambda: running.value("headroom_collector_success", collector="prometheus") is None)
    finally:
        server.close()
    assert observed["finished_requests"] == pytest.approx(live.watched_finished, rel=0.01)
    assert observed["peak_demand"] == live.demand(0.999)


@pytest.mark.needs_prometheus
@pytest.mark.needs_victoria_metrics
def test_both_stores_give_the_same_answers(address_of, past, capsys):
    said = [
        {**fleet_of(address_of(name), past, capsys), "prometheus": ""} for name in ("prometheus", "victoria-metrics")
    ]
    one, other = (dict(leaves(each)) for each in said)
    assert one.keys() == other.keys()
    for place, value in one.items():
        near = isinstance(value, float)
        assert other[place] == (pytest.approx(value, rel=0.005, abs=0.005) if near else value), place


def leaves(value, place=""):
    """Yield (place, value) of everything in JSON-ready data."""
    if isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(each, f"{place}/{key}")
    else:
        yield place, value
