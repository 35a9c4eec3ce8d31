import json
from dataclasses import replace

import pytest

from advisor.advise import advise
from advisor.history import History
from advisor.policy import Policy
from advisor.snapshot import EngineTarget, Snapshot
from exporter.config import PrometheusConfig
from exporter.errors import SourceError
from exporter.seeding import Seeding
from exporter.sources.prometheus import Prometheus
from tests.advisor.examples import reading, server
from tests.advisor.loads import told
from tests.exporter.daemon import FakeServer, daemon, vllm_page

KEY = ("127.0.0.1:8000", "0")
TARGET = EngineTarget(engine="127.0.0.1:8000", url="http://127.0.0.1:8000", failing=None, ranks=(("m", "0"),))
NOW = 1.8e9
NOTHING = (200, {}, json.dumps({"status": "success", "data": []}).encode())


@pytest.fixture
def store():
    fake = FakeServer()
    yield fake
    fake.close()


class Host:
    """An engine that answers, and what seeds it."""

    def __init__(self, url, kept=None, *, limit="--max-num-seqs 64"):
        self.now = NOW
        self.seeding = Seeding(
            Prometheus(PrometheusConfig(url=url)),
            kept or {},
            wall=lambda: self.now,
            least_step_seconds=5.0,
            host_names=frozenset({"here"}),
        )
        started = server(f"vllm serve /models/m {limit}")
        self.snapshot = Snapshot(
            now_seconds=1_000.0, servers=(started,) if limit else (), engines=(reading(),), targets=(TARGET,)
        )
        self.report = advise(self.snapshot, History(), Policy())

    def begun(self, *, at_once=False):
        return list(self.seeding.begun(self.snapshot, self.report, Policy(), at_once=at_once))


def kept(*, seconds_ago):
    return {KEY: replace(told(), model_name="m", until_wall_seconds=NOW - seconds_ago)}


def test_an_engine_without_state_is_asked_for_once(store):
    store.answers = {"/api/v1/series": NOTHING}
    host = Host(store.url)
    (past,) = host.begun()
    assert host.begun() == []
    past.read()
    assert host.seeding.applied({}) == ({}, (past.key,))
    assert host.begun() == []


def test_state_of_a_minute_ago_needs_no_past(store):
    assert Host(store.url, kept(seconds_ago=60)).begun() == []
    assert store.requests == []


def test_old_state_stands_aside_until_the_past_after_it_is_read(store):
    store.answers = {"/api/v1/series": NOTHING}
    old = kept(seconds_ago=7_200)
    host = Host(store.url, old)
    assert host.seeding.without_aside(old) == {}
    assert host.seeding.with_aside({}) == old  # a daemon that ends now keeps it
    (past,) = host.begun()
    past.read()
    assert f"start={NOW - 7_200:.3f}" in store.requests[0][0]
    loads, _ = host.seeding.applied({})
    assert loads[KEY].watched_finished == old[KEY].watched_finished
    assert host.seeding.with_aside(loads) == loads


def test_what_was_seen_since_the_start_comes_after_it(store):
    store.answers = {"/api/v1/series": NOTHING}
    host = Host(store.url, kept(seconds_ago=7_200))
    (past,) = host.begun()
    past.read()
    loads, _ = host.seeding.applied({KEY: told(finished=10.0)})
    assert loads[KEY].watched_finished == told().watched_finished + 10


def test_where_the_limit_is_not_known_yet_it_is_waited_for_but_not_long(store):
    host = Host(store.url, limit="")
    assert host.begun() == []
    host.now += 20
    assert len(host.begun()) == 1
    assert len(Host(store.url, limit="").begun(at_once=True)) == 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((401, {}, b""), "http_401"),
        ((302, {"Location": "/login"}, b""), "http_302"),
        ((200, {"Content-Type": "text/html"}, b"<html>"), "not_json"),
        ((200, {"Content-Length": "999"}, b'{"status":"succ'), "broken_body"),
        ((200, {}, b'{"status":"success","data":{"a":1}}'), "not_prometheus"),
        ((503, {}, b"starting"), "http_503"),
    ],
)
def test_a_store_that_fails_is_asked_again_and_old_state_does_not_wait_for_it(store, answer, reason):
    store.answers = {"/api/v1/series": answer}
    without, having = Host(store.url), Host(store.url, kept(seconds_ago=7_200))
    for host in (without, having):
        (past,) = host.begun()
        with pytest.raises(SourceError) as caught:
            past.read()
        assert caught.value.reason == reason
    assert without.seeding.applied({}) == ({}, ())
    assert having.seeding.applied({})[0][KEY].watched_finished == told().watched_finished


def test_an_engine_that_is_gone_is_asked_for_no_more(store):
    host = Host(store.url)
    assert host.seeding.forget("127.0.0.1:8000") is None
    (past,) = host.begun()
    assert host.seeding.forget("127.0.0.1:8000") == past.key
    assert past.is_over
    assert len(host.begun()) == 1  # it has come back


def test_a_daemon_serves_on_whatever_its_store_does(store, tmp_path):
    store.answers = {"/api/v1/series": (200, {}, b'{"status":"success","data":[{"instance":'), "/metrics": NOTHING}
    vllm = FakeServer()
    vllm.page(vllm_page())
    (tmp_path / "token").write_text("s3cret")
    (tmp_path / "c.yaml").write_text(
        f"poll_interval: 0.25\nengines: [{{url: '{vllm.url}'}}]\n"
        f"prometheus: {{url: '{store.url}', bearer_token_file: token}}\n"
    )
    try:
        with daemon("--config", str(tmp_path / "c.yaml")) as running:
            said = {"collector": "prometheus", "reason": "not_json"}
            running.wait_for(lambda: running.value("headroom_collector_failing", **said) == 1.0, 60)
            assert running.value("headroom_engine_up") == 1.0
            assert running.value("headroom_collector_success", collector="advice") == 1.0
            assert running.get("/-/ready") == "ready\n"
            assert sum("not JSON" in line for line in running.log) == 1
            assert not any("s3cret" in each for each in (*running.log, running.get("/metrics")))
            assert running.stop()[0] == 0
    finally:
        vllm.close()
    assert store.requests[0][1]["Authorization"] == "Bearer s3cret"
