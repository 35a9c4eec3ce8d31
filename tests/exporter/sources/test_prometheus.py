import json
from pathlib import Path

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from exporter.config import PrometheusConfig
from exporter.errors import SourceError, SourceMalformed, SourceUnavailable, UsageError
from exporter.sources.prometheus import MOST_POINTS, Prometheus, parse_answer, parse_series
from tests.exporter.daemon import FakeServer

VECTOR = {"resultType": "vector", "result": [{"metric": {"a": "b"}, "value": [1.5, "2"]}]}


def good(data, **more):
    return (200, {"Content-Type": "application/json"}, json.dumps({"status": "success", "data": data, **more}).encode())


@pytest.fixture
def server():
    fake = FakeServer()
    yield fake
    fake.close()


def asked(server, **config):
    """Return the client of a server below a path, as Mimir's and a VictoriaMetrics cluster's is."""
    return Prometheus(PrometheusConfig(url=f"{server.url}/select/0/prometheus/", **config))


def test_an_answer_below_a_path_is_read(server):
    server.answers = {"/select/0/prometheus/api/v1/query": good(VECTOR)}
    (series,) = asked(server).query("up", 7.25)
    assert (series.labels, series.points) == ({"a": "b"}, ((1.5, 2.0),))
    assert "query=up&time=7.250" in server.requests[0][0]


def test_more_points_than_the_api_gives_are_never_asked_for(server):
    with pytest.raises(ValueError, match="11000 points"):
        asked(server).query_range("up", 0.0, MOST_POINTS, 1.0)
    assert server.requests == []


def test_a_stale_point_is_no_point():
    matrix = {"resultType": "matrix", "result": [{"metric": {}, "values": [[1, "1"], [2, "NaN"], [3, "+Inf"]]}]}
    (series,) = parse_series(matrix)
    assert series.points == ((1.0, 1.0), (3.0, float("inf")))


@pytest.mark.parametrize(
    ("status", "kind", "body", "reason", "words"),
    [
        (401, "text/plain", b"", "http_401", "bearer_token_file"),
        (403, "text/html", b"<html>", "http_403", "~/.netrc"),
        (302, "text/html", b"", "http_302", "login page"),
        (404, "text/plain", b"404 page not found", "http_404", "/select/0/prometheus"),
        (404, "text/html", b"<html>", "http_404", "/prometheus"),
        (200, "text/html", b"<!doctype html>", "not_json", "a page for people"),
        (200, "text/plain", b"hello", "not_json", "not JSON"),
        (200, "application/json", b"[]", "not_prometheus", "not as a Prometheus does"),
        (200, "application/json", b'{"status":"ok"}', "not_prometheus", "not as a Prometheus does"),
        (503, "text/plain", b"no space left", "http_503", "no space left"),
        (
            422,
            "application/json",
            b'{"status":"error","errorType":"execution","error":"query processing would load too many samples"}',
            "http_422",
            "refuses: query processing would load too many samples",
        ),
        (400, "text/json", b'{"status":"error","error":"parse \\u001b[31m"}', "http_400", "refuses: parse"),
    ],
)
def test_what_is_no_answer_says_why_and_what_to_do(status, kind, body, reason, words):
    with pytest.raises(SourceError) as caught:
        parse_answer(status, kind, body)
    assert caught.value.reason == reason
    assert words in caught.value.detail
    assert "\x1b" not in caught.value.detail


def test_an_error_names_the_address(server):
    with pytest.raises(SourceUnavailable, match=f"{server.url}/select/0/prometheus: has no Prometheus API"):
        asked(server).query("up", 0.0)


def test_nothing_there_is_said_at_once():
    nothing = Prometheus(PrometheusConfig(url="http://127.0.0.1:1"))
    with pytest.raises(SourceUnavailable, match=r"http://127\.0\.0\.1:1 cannot be reached"):
        nothing.query("up", 0.0)


def test_who_does_not_answer_is_left(server):
    def dribble(out):
        for _ in range(50):
            out.write(b" ")
            out.flush()

    server.answers = {"/select/0/prometheus/api/v1/query": (200, {}, dribble)}
    now = iter(range(0, 10_000, 40))
    slow = Prometheus(
        PrometheusConfig(url=f"{server.url}/select/0/prometheus"), read_seconds=1.0, steady=lambda: next(now)
    )
    with pytest.raises(SourceUnavailable, match="too slowly"):
        slow.query("up", 0.0)


def test_warnings_and_partial_answers_are_kept_once_each(server):
    server.answers = {
        "/select/0/prometheus/api/v1/query": good(VECTOR, warnings=["store\x07 a is down"], isPartial=True)
    }
    client = asked(server)
    for _ in range(2):
        client.query("up", 0.0)
    assert list(client.warnings) == ["store\N{REPLACEMENT CHARACTER} a is down", "the answer is partial"]


def test_a_token_wins_over_netrc_and_is_read_from_a_file(server, tmp_path, monkeypatch):
    server.answers = {"/select/0/prometheus/api/v1/query": good(VECTOR)}
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (tmp_path / "token").write_text("s3cret\n")
    (tmp_path / "password").write_text("pass\n")
    for config, authorization in (
        ({"bearer_token_file": tmp_path / "token"}, "Bearer s3cret"),
        ({"username": "u", "password_file": tmp_path / "password"}, "Basic dTpwYXNz"),
        ({}, "Basic bWU6bWluZQ=="),
    ):
        asked(server, tenant="team", **config).query("up", 0.0)
        _, headers = server.requests[-1]
        assert headers["Authorization"] == authorization
        assert headers["X-Scope-OrgID"] == "team"


def test_a_token_that_cannot_be_read_is_told_by_its_key(tmp_path):
    with pytest.raises(UsageError, match=r"prometheus\.bearer_token_file: .*nowhere cannot be read"):
        Prometheus(PrometheusConfig(url="http://x", bearer_token_file=tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("content", "told"), [(None, "cannot be read"), ("no certificate\n", "is not PEM, or holds no certificate")]
)
def test_an_authority_that_cannot_be_used_is_told_before_anything_is_asked(tmp_path, content, told):
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UsageError, match=rf"ca_file of https://x: .*ca\.pem {told}"):
        Prometheus(PrometheusConfig(url="https://x", ca_file=file))


def test_an_authority_wins_over_the_environments_and_one_that_is_gone_is_no_broken_answer(tmp_path, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", requests.certs.where())
    file = tmp_path / "ca.pem"
    file.write_bytes(Path(requests.certs.where()).read_bytes())
    prometheus = Prometheus(PrometheusConfig(url="https://127.0.0.1:1", ca_file=file))
    file.unlink()
    with pytest.raises(SourceUnavailable, match=r"ca\.pem") as caught:
        prometheus.query("up", 0.0)
    assert caught.value.reason == "tls"


def test_a_redirect_is_not_followed_with_the_token(server, tmp_path):
    (tmp_path / "token").write_text("s3cret")
    other = FakeServer()
    try:
        server.answers = {"/select/0/prometheus/api/v1/query": (302, {"Location": other.url}, b"")}
        with pytest.raises(SourceUnavailable, match="login page"):
            asked(server, bearer_token_file=tmp_path / "token").query("up", 0.0)
        assert other.requests == []
    finally:
        other.close()


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda each: (
        st.lists(each, max_size=3)
        | st.dictionaries(st.sampled_from(["resultType", "result", "metric", "value", "values"]), each, max_size=3)
    ),
    max_leaves=10,
)


@given(JSON)
def test_anything_else_is_refused_in_our_words(data):
    refused = None
    try:
        parse_series(data)
    except SourceMalformed as error:
        refused = error.reason
    assert refused in (None, "not_prometheus")


@given(st.integers(100, 599), st.binary(max_size=60))
def test_any_bytes_are_an_answer_or_our_error(status, body):
    said = "an answer"
    try:
        parse_answer(status, "", body)
    except SourceError as error:
        said = error.detail
    assert said
