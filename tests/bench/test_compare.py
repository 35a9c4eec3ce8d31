import json
import sys
import threading
import urllib.error
import urllib.request
from http.server import ThreadingHTTPServer

import pytest

from advisor.units import GIB
from bench.accuracy import packages
from bench.accuracy.compare import askable, compared, ourselves, package_peers
from bench.accuracy.peers import PeerAnswer
from bench.accuracy.rows import Doubt
from tests.bench.examples import DENSE, deployment, prediction, scored


def asked(row, said=None):
    return askable([scored(row, said or prediction())], {"org/model": DENSE}, {"org/model": 1_000_000})


def test_only_rows_that_judge_something_are_asked():
    assert asked(deployment(kv_gib=10.0))
    assert not asked(deployment(kv_gib=10.0, doubts=(Doubt(of="build", why="a fork"),)))


def test_a_peer_is_held_to_the_same_report():
    (each,) = asked(deployment(kv_gib=10.0, weights_gib=5.0, kv_tokens=1000, started=True))
    answer = PeerAnswer(weights_bytes=6 * GIB, kv_bytes=12 * GIB, bytes_per_token=10 * GIB / 1000)
    result = compared("a peer", [(each, answer)])
    assert result.weights_median == pytest.approx(0.2)
    assert result.kv_share_median == pytest.approx(0.1)
    assert result.tokens_median == pytest.approx(0.2)
    assert (result.verdicts_right, result.verdicts) == (1, 1)


def test_a_peer_without_a_word_for_a_figure_is_not_scored_on_it():
    (each,) = asked(deployment(kv_gib=10.0, weights_gib=5.0, started=True))
    result = compared("weights only", [(each, PeerAnswer(weights_bytes=5 * GIB))])
    assert result.weights_median == 0
    assert result.kv_share_median is None
    assert result.verdicts == 0


def test_the_estimator_stands_in_the_same_table():
    result = ourselves(asked(deployment(kv_gib=8.0, kv_tokens=800, started=True)))
    assert result.kv_share_median == pytest.approx(0.1)
    assert result.tokens_median == pytest.approx(0.25)
    assert (result.verdicts_right, result.verdicts) == (1, 1)


def test_packages_that_are_not_installed_are_left_out(tmp_path):
    bare = tmp_path / "bare-python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o755)
    assert package_peers(asked(deployment(kv_gib=10.0)), bare) == ((), {})


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(packages._Hub, "configs", {"org/model": DENSE})
    server = ThreadingHTTPServer(("127.0.0.1", 0), packages._Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_stand_in_hub_serves_a_configuration_and_nothing_else(hub):
    with urllib.request.urlopen(f"{hub}/org/model/resolve/main/config.json") as answer:
        assert json.load(answer) == DENSE
    with urllib.request.urlopen(f"{hub}/api/models/org/model") as answer:
        assert json.load(answer)["id"] == "org/model"
    for path in ("/org/model/resolve/main/model.safetensors", "/api/models/org/other"):
        with pytest.raises(urllib.error.HTTPError) as problem:
            urllib.request.urlopen(hub + path)
        problem.value.close()
        assert problem.value.code == 404
