"""The daemon beside a real vLLM 0.32 on the CPU and a real Prometheus, under real load."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.end_to_end.prometheus import prometheus
from tests.end_to_end.real_vllm import Load, RealVllm, remembering_proxy
from tests.exporter.daemon import daemon

pytestmark = pytest.mark.needs_vllm

BLOCKS, BLOCK_TOKENS = 96, 128
CAPACITY = BLOCKS * BLOCK_TOKENS
PATIENCE_SECONDS = 90
"""For what must come but whose moment depends on how busy the machine is."""
SCARCE = ("--num-gpu-blocks-override", str(BLOCKS), "--block-size", str(BLOCK_TOKENS), "--max-model-len", "2048")


@pytest.fixture(scope="module")
def vllm():
    return Path(os.environ["VLLM_HEADROOM_TEST_VLLM"])


@pytest.fixture(scope="module")
def model(vllm, tmp_path_factory):
    directory = tmp_path_factory.mktemp("model") / "tiny"
    script = Path(__file__).parent / "tiny_model.py"
    subprocess.run([vllm.parent / "python", script, directory], check=True)
    return directory


@pytest.fixture(scope="module")
def server(vllm, model, tmp_path_factory):
    running = RealVllm(vllm, model, *SCARCE, "--max-num-seqs", "64", log=tmp_path_factory.mktemp("vllm") / "server.log")
    running.wait_until_up()
    yield running
    running.stop()


def shown(page, name, **labels):
    """Return the value of one series in the text of a page."""
    wanted = "".join(rf'(?=[^}}]*{key}="{re.escape(value)}")' for key, value in labels.items())
    found = re.search(rf"^{re.escape(name)}\{{{wanted}[^}}]*\}} (\S+)$", page, re.MULTILINE)
    return float(found[1]) if found else None


def test_our_figures_are_vllms_own_at_every_sample(server):
    """The daemon reads through a proxy that keeps each page, so both sides of the comparison are one moment."""
    compared, usages = 0, []
    with (
        remembering_proxy(server.port) as (url, pages),
        daemon("--engine", url, "--poll-interval", "0.5") as running,
        Load(server.port, clients=30, prompt_tokens=600, output_tokens=400),
    ):
        running.wait_for(lambda: running.value("headroom_engine_up") == 1.0, PATIENCE_SECONDS)
        end = time.monotonic() + 120
        while compared < 30 and time.monotonic() < end:
            time.sleep(0.5)
            ours = running.get("/metrics")
            used = shown(ours, "headroom_engine_kv_used_tokens")
            if shown(ours, "headroom_engine_up") == 0.0:  # a starved vLLM can take longer over a page than we wait
                assert used is None
                continue
            states = (
                shown(ours, "headroom_engine_requests_running"),
                shown(ours, "headroom_engine_requests_waiting"),
            )
            theirs = [
                page
                for page in pages[-4:]
                if (shown(page, "vllm:num_requests_running"), shown(page, "vllm:num_requests_waiting")) == states
                and abs(used - shown(page, "vllm:kv_cache_usage_perc") * CAPACITY) <= BLOCK_TOKENS
            ]
            assert theirs, f"used {used}, running and waiting {states}: on none of the last pages"
            assert shown(ours, "headroom_engine_kv_capacity_tokens") == CAPACITY
            headroom = shown(ours, "headroom_engine_kv_headroom_tokens")
            assert used + headroom == pytest.approx(CAPACITY)
            usages.append(used / CAPACITY)
            compared += 1
    assert compared == 30
    assert max(usages) > 0.9, "the load was meant to fill the cache"


@pytest.mark.needs_prometheus
def test_theory_equals_what_the_real_engine_reports_and_the_limiter_is_kv(server, tmp_path):
    with daemon("--poll-interval", "1") as running:
        engine = f"127.0.0.1:{server.port}"
        running.wait_for(
            lambda: running.value("headroom_engine_kv_theory_tokens", engine=engine) is not None, PATIENCE_SECONDS
        )
        assert running.value("headroom_engine_kv_theory_tokens", engine=engine) == CAPACITY
        assert running.value("headroom_engine_kv_theory_lower_tokens", engine=engine) == CAPACITY
        assert running.value("headroom_engine_kv_theory_upper_tokens", engine=engine) == CAPACITY
        assert running.value("headroom_engine_kv_capacity_gap_ratio", engine=engine) == 0.0
        assert running.value("headroom_engine_kv_bytes_per_token", engine=engine) == 4 * 2 * (64 + 64) * 2
        assert running.value("headroom_engine_max_num_seqs", engine=engine) == 64
        assert running.value("headroom_engine_full_context_concurrency", engine=engine) == CAPACITY / 2048
        assert running.value("headroom_engine_metric_missing", engine=engine) is None
        ours = f'engine="{engine}"'
        with prometheus(tmp_path, f"127.0.0.1:{running.port}", f"127.0.0.1:{server.port}") as store:
            with Load(server.port, clients=40, prompt_tokens=600, output_tokens=400):
                limited = {"engine": engine, "limiter": "kv"}
                running.wait_for(lambda: running.value("headroom_engine_limiter", **limited) == 1.0, PATIENCE_SECONDS)
                time.sleep(45)
                kv = store.value(f'avg_over_time(headroom_engine_limiter{{limiter="kv",{ours}}}[30s])')
                running_and_waiting = store.value(
                    f"avg_over_time(headroom_engine_requests_running{{{ours}}}[30s]) + "
                    f"avg_over_time(headroom_engine_requests_waiting{{{ours}}}[30s])"
                )
                page = running.get("/metrics")
            # Under load the two are read at different moments, between which they grow; after it both stand still.
            preempted = shown(server.metrics(), "vllm:num_preemptions_total")
            running.wait_for(
                lambda: (
                    store.value(f"headroom_engine_preemptions_total{{{ours}}}")
                    == store.value("vllm:num_preemptions_total")
                    == preempted
                ),
                PATIENCE_SECONDS,
            )
        assert kv > 0.9, f"limiter was kv {kv:.0%} of the time"
        assert running_and_waiting == pytest.approx(40, abs=4)
        assert preempted > 0
    checked = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_an_overfull_limit_is_seen_from_outside_and_what_is_advised_fits_the_cache(server, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("poll_interval: 0.5\npolicy: {advice_least_busy_seconds: 30}\n")
    engine = f"127.0.0.1:{server.port}"
    with (
        daemon("--config", str(config), "--state-dir", str(tmp_path / "state")) as running,
        Load(server.port, clients=40, prompt_tokens=600, output_tokens=400),
    ):
        running.wait_for(
            lambda: running.value("headroom_engine_recommended_max_num_seqs", engine=engine), 5 * PATIENCE_SECONDS
        )
        advice = next(each for each in json.loads(running.get("/api/v1/advice"))["engines"] if each["engine"] == engine)
        assert running.stop()[0] == 0
    seqs = advice["max_num_seqs"]
    # Prompts of 300 to 600 tokens, answers of 200 to 400: a running one holds about 600, 20 of them fill the cache.
    assert advice["observed"]["mean_request_tokens"] == pytest.approx(620, rel=0.15)
    assert (seqs["current"], seqs["binding"]) == (64, "kv")
    assert 13 <= seqs["recommended"] <= 20
    assert advice["observed"]["preempted_ratio"] > 0.01
    typed = subprocess.run(
        [sys.executable, "-m", "exporter", "advise", "--engine", server.url, "--state-dir", str(tmp_path / "state")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert typed.returncode == 1
    assert "not enough seen yet" in typed.stdout  # without the file the default of ten minutes holds


def test_restart_with_another_limit_and_death_show_as_they_should(vllm, model, tmp_path):
    with daemon("--poll-interval", "1") as running, ExitStack() as servers:
        first = RealVllm(vllm, model, *SCARCE, "--max-num-seqs", "4", log=tmp_path / "first.log")
        servers.callback(first.stop)
        engine = f"127.0.0.1:{first.port}"
        # While it loads, the server is known and down.
        running.wait_for(lambda: running.value("headroom_engine_up", engine=engine) == 0.0, PATIENCE_SECONDS)
        first.wait_until_up()
        running.wait_for(lambda: running.value("headroom_engine_up", engine=engine) == 1.0, PATIENCE_SECONDS)
        running.wait_for(lambda: running.value("headroom_engine_max_num_seqs", engine=engine) == 4.0, PATIENCE_SECONDS)
        limited = {"engine": engine, "limiter": "max_num_seqs"}
        with Load(first.port, clients=12, prompt_tokens=100, output_tokens=200):
            # The first step of a fresh server takes seconds, in which its page still counts nobody as running.
            running.wait_for(lambda: running.value("headroom_engine_limiter", **limited) == 1.0, PATIENCE_SECONDS)
            seen, end = [], time.monotonic() + 60
            while len(seen) < 10 and time.monotonic() < end:
                time.sleep(1)
                limits = running.value("headroom_engine_limiter", **limited)
                if limits is not None:  # a page that came too late says nothing
                    seen.append(limits)
        assert len(seen) == 10
        assert sum(seen) >= 8, seen

        first.stop(signal.SIGKILL)
        running.wait_for(
            lambda: running.value("headroom_engine_up", engine=engine, model_name="tiny") == 0.0, PATIENCE_SECONDS
        )
        assert running.value("headroom_engine_kv_capacity_tokens", engine=engine) is None

        again = RealVllm(vllm, model, *SCARCE, "--max-num-seqs", "7", port=first.port, log=tmp_path / "again.log")
        servers.callback(again.stop)
        again.wait_until_up()
        running.wait_for(lambda: running.value("headroom_engine_max_num_seqs", engine=engine) == 7.0, PATIENCE_SECONDS)
        assert running.value("headroom_engine_preemptions_total", engine=engine) == 0.0
        engines = [each["engine"] for each in json.loads(running.get("/api/v1/status"))["engines"]]
        assert engines.count(engine) == 1
