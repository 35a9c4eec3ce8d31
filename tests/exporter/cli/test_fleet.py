"""``advise --fleet``: what it says of a made-up fleet, and of what is no Prometheus. Real stores: tests/end_to_end."""

import gzip
import io
import json
from functools import partial

import pytest
from rich.console import Console

from advisor.fleet import FleetGpu, judge_fleet
from advisor.policy import Policy
from exporter.cli.fleet import as_data, run_fleet, show
from exporter.config import Config, PrometheusConfig
from exporter.errors import SourceError
from exporter.fleet import Seen
from exporter.sources.prometheus import MOST_BODY_BYTES, Prometheus
from tests.advisor.test_fleet import engine, scraped
from tests.exporter.daemon import FakeServer
from tests.exporter.typed import typed

URL = "http://prometheus:9090"
CANNOT = ("max-num-seqs and the other flags",)


def seen(*engines, **more):
    return Seen(**{"engines": engines, "gone": (), "gpus": (), "copies": 0, **more})


def shown(what, *, warnings=()):
    """Return what people read, in one line."""
    out = io.StringIO()
    fleet = judge_fleet(what.engines, what.gpus, Policy())
    show(Console(file=out, width=80, highlight=False), fleet, what, warnings, URL, 86_400.0)
    assert all(len(line.rstrip()) <= 80 for line in out.getvalue().splitlines())
    return " ".join(out.getvalue().split())


def test_the_sums_come_first_then_the_worst():
    text = shown(
        seen(
            engine(engine="10.0.0.1:8000", where="10.0.0.1", used_tokens=1_000.0),
            engine(where="10.0.0.2", model_name="crowded", max_num_seqs=64.0, preempted=150.0),
        )
    )
    assert "2 engines in the last 24.0 h, 2 up: 1 mis-sized, 1 idle, 0 cannot be told." in text
    assert "KV: 20,000 tokens; all but 1% of the time 7,000 or fewer are in use, so 13,000 (65%) sit idle." in text
    assert "Beside that load 14 more typical requests fit, 12 with max-num-seqs as advised." in text
    assert text.index("10.0.0.2:8000 too full 40% 8 -> 6 max-num-seqs 64 -> 16, 15.0%") < text.index("idle 90% 6 KV")


def test_a_daemon_elsewhere_is_named_beside_what_it_watches():
    assert "10.0.0.1:8000 (watcher)" in shown(seen(engine(engine="10.0.0.1:8000", where="watcher")))


def test_idle_gpus_are_named_by_host():
    cards = [
        FleetGpu(where=host, gpu=gpu, uuid=f"{host}{gpu}", total_bytes=80e9, used_bytes=used)
        for host, gpu, used in (("a", "0", 7e10), ("a", "1", 1e8), ("b", "0", 1e8), ("b", "3", 1e8))
    ]
    assert "GPUs: 4, of which 3 did nothing (a: 1; b: 0, 3)." in shown(seen(engine(), gpus=tuple(cards)))


def test_what_cannot_be_told_is_told():
    text = shown(
        seen(scraped(cannot_say=CANNOT), gone=tuple(engine(where=f"h{n}") for n in range(7)), copies=2),
        warnings=("a store is down",),
    )
    assert "Engines of which only vLLM's own series tell: 1. Not told by them: max-num-seqs and the other" in text
    assert "Where max-num-seqs is not known (1), what more fits is counted by KV alone." in text
    assert "counted once: 2." in text
    assert "No longer there: h0:8000 m, h1:8000 m, h2:8000 m, h3:8000 m, h4:8000 m and 2 more." in text
    assert "The server warns: a store is down" in text


def test_labels_do_not_steer_the_terminal():
    assert "\x1b" not in shown(seen(engine(model_name="\x1b[31mred", where="\x1b]0;x")))


def test_ranks_are_named_where_there_are_several():
    text = shown(seen(engine(where="a"), engine(where="a", dp_rank="1")))
    assert "a:8000 dp0" in text
    assert "a:8000 dp1" in text


def test_the_same_is_there_as_json():
    what = seen(engine(max_num_seqs=64.0), scraped(engine="10.0.0.9:8000", cannot_say=CANNOT))
    data = json.loads(
        json.dumps(as_data(judge_fleet(what.engines, (), Policy()), what, (), URL, 1.8e9, 60.0), allow_nan=False)
    )
    assert [each["verdict"] for each in data["engines"]] == ["overfull", "right"]
    assert data["engines"][0]["recommended"] == 16
    assert data["sums"]["mis_sized"] == 1


@pytest.fixture
def store():
    fake = FakeServer()
    yield fake
    fake.close()


def good(data):
    return (200, {"Content-Type": "application/json"}, json.dumps({"status": "success", "data": data}).encode())


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({}, "has no Prometheus API there"),
        ({"/api/v1/series": (401, {}, b"no")}, "bearer_token_file"),
        ({"/api/v1/series": (200, {"Content-Type": "text/html"}, b"<!doctype html>")}, "a page for people"),
        ({"/api/v1/series": (302, {"Location": "http://127.0.0.1:1/"}, b"")}, "login page"),
        ({"/api/v1/series": (200, {"Content-Length": "900"}, b'{"status":')}, "broken_body"),
        ({"/api/v1/series": good({"a": 1})}, "not_prometheus"),
        ({"/api/v1/series": good([{"engine": "e", "instance": "i"}]), "/api/v1/query": good([])}, "shape"),
    ],
)
def test_what_is_no_prometheus_is_said(store, answers, words):
    store.answers = answers
    with pytest.raises(SourceError, match=words):
        run_fleet(Config(prometheus=PrometheusConfig(url=store.url)), as_json=False)


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf"])
def test_figures_that_are_no_numbers_are_as_good_as_none(store, value, capsys):
    labels = {"engine": "e", "instance": "i:1", "model_name": "m"}
    store.answers = {
        "/api/v1/series": good([labels]),
        "/api/v1/query": good(
            {
                "resultType": "vector",
                "result": [{"metric": {**labels, "limiter": "kv", "uuid": "u"}, "value": [1, value]}],
            }
        ),
    }
    assert run_fleet(Config(prometheus=PrometheusConfig(url=store.url)), as_json=False) == 1
    assert "No longer there: e (i) m, i:1 m." in capsys.readouterr().out


def test_a_huge_answer_is_left_unread(store):
    """As small as it is on the wire: it is what it unpacks to that counts."""
    bomb = gzip.compress(b" " * (3 * MOST_BODY_BYTES))
    assert len(bomb) < MOST_BODY_BYTES / 100
    store.answers = {"/api/v1/query": (200, {"Content-Encoding": "gzip"}, bomb)}
    client = Prometheus(PrometheusConfig(url=store.url))
    with pytest.raises(SourceError, match=r"body_too_large.*prometheus\.selector narrows"):
        client.query("up", 0.0)
    client.close()


advise_fleet = partial(typed, "advise", "--fleet")


def test_a_store_that_knows_no_engine_says_so_and_is_no_success(store):
    store.answers = {"/api/v1/series": good([]), "/api/v1/query": good({"resultType": "vector", "result": []})}
    result = advise_fleet("--prometheus", store.url)
    assert (result.returncode, result.stderr) == (1, "")
    assert "has no engine of the last 7.0 days: neither headroom_engine_up nor" in " ".join(result.stdout.split())


def test_a_password_comes_from_netrc_and_is_never_shown(store, tmp_path):
    store.answers = {"/api/v1/series": (401, {}, b"")}
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password s3cret\n")
    result = advise_fleet("--prometheus", store.url, variables={"NETRC": str(tmp_path / "netrc")})
    assert store.requests[0][1]["Authorization"].startswith("Basic ")
    assert result.returncode == 2
    assert "wants other credentials" in result.stderr
    assert "s3cret" not in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "name it with --prometheus URL"),
        (("--prometheus", "prometheus:9090"), "is not an address such as http://prometheus:9090"),
        (("--prometheus", "http://me:s3cret@prometheus"), "credentials do not belong in a URL"),
        (("--prometheus", "http://127.0.0.1:1"), "cannot be reached"),
    ],
)
def test_what_is_typed_wrong_says_what_would_be_right(arguments, words):
    result = advise_fleet(*arguments)
    assert result.returncode == 2
    assert words in result.stderr
    assert "s3cret" not in result.stderr
