"""The daemon as an operator meets it: a process, its pages, its signals."""

import gzip
import json
import re
import signal
import subprocess
import sys
import time
from urllib.request import Request, urlopen

import pytest

from exporter.reference import all_metrics
from tests.exporter.daemon import FakeServer, daemon, vllm_page
from tests.exporter.typed import typed
from tests.nvml_standin.standin import GIB, Process, State, environment

FAST = ("--poll-interval", "0.25")


@pytest.fixture
def server():
    fake = FakeServer()
    fake.page(vllm_page())
    yield fake
    fake.close()


@pytest.fixture
def card(tmp_path, nvml_library):
    """One GPU with 80 GiB, 60 of them used by one process, and the environment that shows it to a daemon."""
    state = State(tmp_path / "nvml.state")
    gpu = state.add_gpu()
    gpu.set_memory(total=80 * GIB, used=60 * GIB, reserved=GIB // 2)
    gpu.set_processes(Process(pid=1, memory=60 * GIB))
    return state, gpu, environment(nvml_library, state)


def test_a_machine_with_nothing_serves_health_and_names_the_reason():
    with daemon(*FAST, bare=True) as running:
        running.wait_for(lambda: running.value("headroom_collector_success", collector="nvml") == 0.0)
        assert running.value("headroom_collector_failing", collector="nvml", reason="no_driver_library") == 1.0
        running.wait_for(lambda: running.value("headroom_collector_success", collector="process") == 1.0)
        assert running.get("/-/healthy") == "healthy\n"
        running.wait_for(lambda: running.value("headroom_collector_success", collector="advice") == 1.0)
        assert running.get("/-/ready") == "ready\n"
        assert "No GPU is readable here" in running.get("/")
        assert not any(name.startswith("headroom_gpu_") for name, _ in running.metrics())
        status, seconds = running.stop()
    assert (status, seconds < 2.0) == (0, True)


@pytest.mark.needs_cc
def test_a_gpu_and_an_engine_show_side_by_side(card, server):
    _, gpu, variables = card
    with daemon(*FAST, "--engine", server.url, environment=variables) as running:
        running.wait_for(lambda: running.value("headroom_engine_up") == 1.0)
        # Each is waited for: on a busy machine any reading can be late, and is then not on the page.
        for name, labels, value in (
            ("headroom_gpu_memory_used_bytes", {"gpu": "0", "uuid": gpu.uuid}, 60 * GIB),
            ("headroom_gpu_memory_component_bytes", {"component": "foreign"}, 60 * GIB),
            ("headroom_engine_kv_capacity_tokens", {"engine": server.engine, "model_name": "m"}, 100_000),
            ("headroom_engine_kv_used_tokens", {"dp_rank": "0"}, 25_000),
            ("headroom_engine_limiter", {"limiter": "none"}, 1.0),
        ):
            running.wait_for(lambda name=name, labels=labels, value=value: running.value(name, **labels) == value)
        status, seconds = running.stop()
    assert (status, seconds < 2.0) == (0, True)


@pytest.mark.needs_cc
def test_a_hung_driver_call_hangs_neither_pages_nor_other_sources_nor_the_exit(card, server):
    state, _, variables = card
    with daemon(*FAST, "--engine", server.url, environment=variables) as running:
        running.wait_for(lambda: running.value("headroom_gpu_memory_used_bytes") == 60 * GIB)
        state.delay("nvmlDeviceGetTemperature*", None)
        running.wait_for(lambda: running.value("headroom_collector_failing", collector="nvml", reason="hung") == 1.0)
        began = time.monotonic()
        assert running.value("headroom_gpu_memory_used_bytes") is None, "no stale value"
        assert time.monotonic() - began < 1.0
        server.page(vllm_page(running=9))
        running.wait_for(lambda: running.value("headroom_engine_requests_running") == 9.0)
        state.heal()
        running.wait_for(lambda: running.value("headroom_gpu_memory_used_bytes") == 60 * GIB)
        state.delay("nvmlDeviceGetTemperature*", None)
        running.wait_for(lambda: running.value("headroom_collector_failing", collector="nvml", reason="hung") == 1.0)
        status, seconds = running.stop()
    assert (status, seconds < 2.0) == (0, True)


def shown(running):
    """Return the GPUs on one page."""
    return {dict(labels)["uuid"] for name, labels in running.metrics() if name == "headroom_gpu_memory_total_bytes"}


@pytest.mark.needs_cc
def test_a_lost_gpu_leaves_the_page_and_the_healthy_one_stays(card):
    state, gpu, variables = card
    other = state.add_gpu()
    with daemon(*FAST, environment=variables) as running:
        running.wait_for(lambda: running.value("headroom_gpu_memory_total_bytes", uuid=other.uuid) is not None)
        gpu.fail("*", "GPU_IS_LOST")
        running.wait_for(lambda: running.value("headroom_collector_failing", reason="gpu_lost") == 1.0)
        running.wait_for(lambda: shown(running) == {other.uuid})
        gpu.heal()
        running.wait_for(lambda: running.value("headroom_gpu_memory_total_bytes", uuid=gpu.uuid) is not None)


def _megabytes(count):
    def write(stream):
        for _ in range(count):
            stream.write(b"vllm:num_requests_running 1.0\n" * 35_000)

    return write


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((200, {}, b"<html><body>It works!</body></html>"), "not_metrics"),
        ((200, {}, b"\x00\xff" * 5_000), "not_metrics"),
        ((200, {}, vllm_page().encode()[:-9]), "half_page"),
        ((200, {}, b"# TYPE python_info gauge\npython_info 1.0\n"), "no_vllm_metrics"),
        ((500, {}, b"Internal Server Error"), "http_500"),
        ((302, {"Location": "http://127.0.0.1:1/"}, b""), "http_302"),
        ((200, {}, _megabytes(100)), "body_too_large"),
        ((200, {"Content-Encoding": "gzip"}, gzip.compress(b"\n" * 300_000_000, 9)), "body_too_large"),
    ],
    ids=["html", "bytes", "half", "foreign", "500", "redirect", "100 MiB", "gzip bomb"],
)
def test_whatever_an_engine_answers_it_is_down_with_a_reason_and_nothing_false_is_shown(server, answer, reason):
    with daemon(*FAST, "--engine", server.url) as running:
        running.wait_for(lambda: running.value("headroom_engine_up") == 1.0)
        server.answers["/metrics"] = answer
        # On a busy machine the first such read is late, and the reason "hung" until it is back.
        running.wait_for(lambda: running.value("headroom_engine_failing", model_name="m", reason=reason) == 1.0)
        assert running.value("headroom_engine_up") == 0.0
        assert running.value("headroom_engine_requests_running") is None
        assert running.value("headroom_engine_kv_capacity_tokens") is None
        assert running.value("process_resident_memory_bytes") < 200 * 1024**2
        server.page(vllm_page(running=4))
        running.wait_for(lambda: running.value("headroom_engine_requests_running") == 4.0)
        status, seconds = running.stop()
    assert (status, seconds < 2.0) == (0, True)


def test_an_engine_that_dribbles_is_given_up_and_another_is_not_kept_waiting(server):
    slow = FakeServer()
    slow.page(vllm_page())
    text = vllm_page().encode()

    def dribble(stream):
        for byte in text:
            stream.write(bytes([byte]))
            stream.flush()
            time.sleep(0.02)

    slow.answers["/metrics"] = (200, {}, dribble)
    with daemon(*FAST, "--engine", slow.url, "--engine", server.url) as running:
        running.wait_for(lambda: running.value("headroom_engine_up", engine=server.engine) == 1.0)
        running.wait_for(lambda: running.value("headroom_engine_up", engine=slow.engine) == 0.0)
        status, seconds = running.stop()
    slow.close()
    assert (status, seconds < 2.0) == (0, True)


def test_an_engine_that_was_never_there_is_down():
    with daemon(*FAST, "--engine", "http://127.0.0.1:1") as running:
        running.wait_for(lambda: running.value("headroom_engine_failing", reason="connection_refused") == 1.0)
        assert running.value("headroom_engine_up", engine="127.0.0.1:1", model_name="", dp_rank="0") == 0.0


def test_what_waits_for_a_minute_without_a_token_is_not_stalled_at_once(server):
    with daemon(*FAST, "--engine", server.url) as running:
        running.wait_for(lambda: running.value("headroom_engine_limiter", limiter="stalled") == 0.0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_both_signals_end_it_in_order(number):
    with daemon(*FAST, bare=True) as running:
        status, seconds = running.stop(number)
    assert (status, seconds < 2.0) == (0, True)
    assert "stopping" in running.log[-1]


def test_pages_come_compressed_and_in_both_formats(server):
    with daemon(*FAST, "--engine", server.url) as running:
        running.wait_for(lambda: running.value("headroom_engine_up") == 1.0)
        openmetrics = running.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
        assert openmetrics.endswith("# EOF\n")
        assert "headroom_engine_up" in running.get("/metrics", Accept="text/plain; version=x")
        request = Request(f"http://127.0.0.1:{running.port}/metrics", headers={"Accept-Encoding": "gzip"})
        with urlopen(request, timeout=10) as answer:
            assert answer.headers["Content-Encoding"] == "gzip"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert b"headroom_engine_up" in gzip.decompress(answer.read())


def test_an_unknown_path_is_not_found():
    with daemon(*FAST, bare=True) as running:
        assert running.refusal("/nothing/here")[0] == 404


def test_a_port_in_use_is_told_in_one_line(server):
    port = server.url.rpartition(":")[2]
    result = typed("serve", "--web.listen-address", f"127.0.0.1:{port}")
    assert result.returncode == 2
    assert result.stderr == (
        f"vllm-headroom: --web.listen-address: cannot listen on 127.0.0.1:{port}: Address already in use\n"
    )


def test_every_key_that_is_not_usable_is_told_at_once(tmp_path):
    (tmp_path / "empty").write_text("")
    (tmp_path / "config.yaml").write_text(
        "engines: [{url: 'http://h:1', api_key_file: none}, {url: 'http://h:2', api_key_file: empty}]\n"
    )
    result = typed("serve", "--config", str(tmp_path / "config.yaml"), "--web.listen-address", "127.0.0.1:0")
    assert result.returncode == 2
    assert result.stderr == (
        f"vllm-headroom: api_key_file of http://h:1: {tmp_path}/none cannot be read\n"
        f"vllm-headroom: api_key_file of http://h:2: {tmp_path}/empty is empty\n"
    )


def test_a_model_name_cannot_inject_into_the_page(server):
    server.page(vllm_page().replace('model_name="m"', 'model_name="<script>alert(1)</script>\\n\\"x"'))
    with daemon(*FAST, "--engine", server.url) as running:
        running.wait_for(lambda: running.value("headroom_engine_up") == 1.0)
        page = running.get("/")
        assert page.count("<script>") == 1, "the page's own, which its policy allows by its hash"
        assert "&lt;script&gt;alert(1)" in page


@pytest.mark.needs_promtool
@pytest.mark.needs_cc
def test_promtool_has_nothing_to_say_of_the_page(card, server):
    _, gpu, variables = card
    gpu.add_xid(1)
    with daemon(*FAST, "--engine", server.url, environment=variables) as running:
        running.wait_for(lambda: running.value("headroom_engine_up") == 1.0)
        running.wait_for(lambda: running.value("headroom_gpu_memory_slack_bytes") is not None)
        page = running.get("/metrics")
    checked = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


@pytest.mark.needs_cc
def test_every_series_on_the_page_is_declared_in_the_reference(card, server):
    _, _, variables = card
    declared = {metric.name: set(metric.labels) for _, metric in all_metrics()}
    with daemon(*FAST, "--engine", server.url, environment=variables) as running:
        running.wait_for(lambda: running.value("headroom_engine_up") == 1.0)
        running.wait_for(lambda: running.value("headroom_gpu_memory_slack_bytes") is not None)
        shown = {name: {key for key, _ in labels} for name, labels in running.metrics() if "headroom" in name}
    assert {name: labels for name, labels in shown.items() if declared.get(name) != labels} == {}


def test_nothing_on_the_pages_names_a_process_a_command_line_or_a_path(server):
    with daemon(*FAST, "--engine", server.url) as running:
        running.wait_for(lambda: running.value("headroom_engine_up") == 1.0)
        for path in ("/metrics", "/", "/api/v1/status", "/api/v1/advice", "/api/v1/plan"):
            assert not re.search(r"/models/|--engine|\bpid\b", running.get(path)), path


def test_what_only_other_commands_need_is_not_loaded():
    listing = "import sys, exporter.cli.serve, exporter.service; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True).stdout.split()
    assert "exporter.service" in loaded
    assert not {"huggingface_hub", "rich", "promql_parser", "requests", "grafana_foundation_sdk"} & set(loaded)


def test_the_key_of_an_engine_is_told_nobody_whatever_the_engine_does_with_it(tmp_path, server):
    (tmp_path / "key").write_text("s3cret\n")
    (tmp_path / "config.yaml").write_text(f"engines: [{{url: '{server.url}', api_key_file: '{tmp_path / 'key'}'}}]\n")
    good = server.answers["/metrics"]
    told_back = {
        "http_302": (302, {"Location": "/metrics?key=s3cret"}, b""),
        "http_401": (401, {"WWW-Authenticate": "Bearer s3cret"}, b"s3cret is wrong"),
        "not_metrics": (200, {"X-Key": "s3cret"}, b"s3cret"),
        "unknown_encoding": (200, {"Content-Encoding": "br"}, b"s3cret"),
    }
    with daemon(*FAST, "--config", str(tmp_path / "config.yaml"), "--log.level", "debug") as running:
        for reason, answer in (*told_back.items(), (None, good)):
            server.answers["/metrics"] = answer
            running.wait_for(
                lambda reason=reason: reason is None or running.value("headroom_engine_failing", reason=reason)
            )
            running.wait_for(lambda reason=reason: running.value("headroom_engine_up") == (reason is None))
            for path in ("/metrics", "/", "/api/v1/status"):
                assert "s3cret" not in running.get(path), path
        running.stop()
        assert {headers["Authorization"] for _, headers in server.requests} == {"Bearer s3cret"}
        assert not any("s3cret" in line for line in running.log)


def test_what_an_engine_held_at_its_start_survives_the_daemon(tmp_path, server):
    server.page(vllm_page(tokens=100_000, started=1_000.0))
    with daemon(*FAST, "--engine", server.url, "--state-dir", str(tmp_path)) as running:
        running.wait_for(lambda: running.value("headroom_engine_kv_capacity_tokens") == 100_000)
        running.stop()
    server.page(vllm_page(tokens=70_000, started=2_000.0))
    with daemon(*FAST, "--engine", server.url, "--state-dir", str(tmp_path)) as running:
        running.wait_for(lambda: running.value("headroom_engine_kv_capacity_tokens") == 70_000)
        findings = running.wait_for(lambda: json.loads(running.get("/api/v1/status"))["findings"])
        assert [finding["rule"] for finding in findings] == ["capacity_dropped"]
        assert "30% less than the 100,000" in findings[0]["summary"]


def counted_page(finished):
    """Return the page of a busy server after so many requests of 400 and 100 tokens."""
    same = 'engine="0",model_name="m"'
    lengths = "".join(
        f"# TYPE vllm:{name} histogram\n"
        f'vllm:{name}_bucket{{{same},le="500"}} {finished}\nvllm:{name}_bucket{{{same},le="+Inf"}} {finished}\n'
        f"vllm:{name}_sum{{{same}}} {length * finished}\nvllm:{name}_count{{{same}}} {finished}\n"
        for name, length in (("request_prompt_tokens", 400), ("request_generation_tokens", 100))
    )
    return vllm_page(running=8, usage=0.4, generated=1_000 + 100 * finished) + lengths


def test_what_an_engine_was_seen_to_do_survives_the_daemon_and_tells_the_same_in_the_command(tmp_path, server):
    def seen(running):
        (engine,) = json.loads(running.get("/api/v1/advice"))["engines"]
        found = re.search(r"([\d,]+) finished requests", engine["not_yet"])
        return int(found[1]) if found else 0

    arguments = (*FAST, "--engine", server.url, "--state-dir", str(tmp_path))
    server.page(counted_page(100))
    with daemon(*arguments) as running:
        running.wait_for(lambda: "finished requests" in running.get("/api/v1/advice"))
        server.page(counted_page(130))
        running.wait_for(lambda: seen(running) == 30)
        assert running.stop()[0] == 0
    # Nothing of its absence counts, and nothing of what was seen is lost.
    server.page(counted_page(900))
    with daemon(*arguments) as running:
        running.wait_for(lambda: running.value("headroom_engine_up") == 1.0)
        assert seen(running) == 30
        server.page(counted_page(912))
        running.wait_for(lambda: seen(running) == 42)
        assert running.stop()[0] == 0
    told = typed("advise", "--engine", server.url, "--state-dir", str(tmp_path))
    assert "not enough seen yet: 42 finished requests" in " ".join(told.stdout.split())
    assert len((tmp_path / "load.json").read_bytes()) < 4_096


def test_a_load_file_that_is_broken_is_set_aside_and_the_daemon_starts(tmp_path, server):
    (tmp_path / "load.json").write_text('{"format": 1, "content": [{"engine": 5}]}')
    with daemon(*FAST, "--engine", server.url, "--state-dir", str(tmp_path)) as running:
        running.wait_for(lambda: running.value("headroom_engine_up") == 1.0)
        assert any("kept as load.unreadable" in line for line in running.log)


def test_a_state_directory_that_cannot_be_written_shows_and_stops_nothing(tmp_path, server):
    (tmp_path / "file").write_text("in the way")
    with daemon(*FAST, "--engine", server.url, "--state-dir", str(tmp_path / "file" / "state")) as running:
        running.wait_for(lambda: running.value("headroom_engine_up") == 1.0)
        running.wait_for(
            lambda: running.value("headroom_collector_failing", collector="state", reason="state_not_written") == 1.0
        )
        assert running.stop()[0] == 0


@pytest.mark.needs_cc
def test_what_the_risk_model_saw_survives_the_daemon(tmp_path, card):
    _, gpu, variables = card
    with daemon(*FAST, "--state-dir", str(tmp_path), environment=variables) as running:
        lowest = running.wait_for(lambda: running.value("headroom_gpu_memory_slack_low_bytes"))
        running.stop()
    gpu.set_memory(total=80 * GIB, used=50 * GIB, reserved=GIB // 2)
    with daemon(*FAST, "--state-dir", str(tmp_path), environment=variables) as running:
        running.wait_for(lambda: (running.value("headroom_gpu_memory_slack_bytes") or 0.0) > lowest)
        assert running.value("headroom_gpu_memory_slack_low_bytes") == lowest
