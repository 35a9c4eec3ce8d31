"""The command as it is typed, with the state directory of a daemon that has watched, and without."""

import json
import os
import pty
import re
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial

import pytest

from advisor.load import to_json
from advisor.risk import REMEDIES
from exporter.state import FORMAT
from tests.advisor.loads import told
from tests.exporter.cli.test_explain import vllm_process
from tests.exporter.daemon import FakeServer, vllm_page
from tests.exporter.typed import typed
from tests.nvml_standin.standin import GIB, Process, State, environment

ENOUGH = told(mean=4_000.0, prompt=2_000.0, output=700.0, demand=100)


advise = partial(typed, "advise")


def seen_in_a_terminal(*arguments):
    """Run the command with a terminal for what is no result; return what it shows there, and the result."""
    ours, theirs = pty.openpty()
    started = subprocess.Popen(
        [sys.executable, "-m", "exporter", *arguments],
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
    )
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # how a terminal says that nobody writes to it any more
        while more := os.read(ours, 65_536):
            shown += more
    os.close(ours)
    return shown.decode(), started.communicate(timeout=60)[0]


def kept(directory, engine, load=ENOUGH):
    """Leave what a daemon leaves behind."""
    content = to_json({(engine, "0"): replace(load, model_name="m")})
    (directory / "load.json").write_text(json.dumps({"format": FORMAT, "content": content}))
    return str(directory)


@pytest.fixture
def server():
    fake = FakeServer()
    fake.page(vllm_page(running=16, waiting=20, usage=0.7, tokens=97_664))
    yield fake
    fake.close()


@pytest.fixture
def host(tmp_path, card, server):
    """A GPU with one vLLM server on it."""
    gpu, variables = card
    port = server.url.rpartition(":")[2]
    flags = ("--max-num-seqs", "64", "--api-key", "s3cret", "--chat-template", '{"a": ":key: [b]\t"}')
    with vllm_process(tmp_path, port, flags=flags) as pid:
        gpu.set_processes(Process(pid=pid, memory=30 * GIB), Process(pid=1, memory=4 * GIB))
        yield variables


@pytest.mark.needs_cc
def test_what_a_daemon_saw_becomes_advice_with_its_price_and_the_line_to_paste(tmp_path, host, server):
    state = kept(tmp_path, server.engine)
    result = advise("--engine", server.url, "--state-dir", state, variables=host)
    assert (result.returncode, result.stderr) == (1, "")
    text = " ".join(result.stdout.split())
    assert "max-num-seqs: 64 -> 20 (between 19 and 20;" in text
    assert "It buys: no stalls in mid-stream: 15.0% of all requests are now preempted" in text
    assert "It does not buy: throughput and latency" in text
    assert "Seen: 4,000 requests in 60 min of load, 16.0 running on average, 108 asked for at once" in text
    assert "A restart with the same flags would pass." in text
    assert "A preemption is to come with probability 1.00; KV full: in" in text
    assert "16 requests run and 20 wait; each holds" in text
    assert "To do: send new requests elsewhere; for good, a lower --max-num-seqs or more KV memory" in text
    assert "--max-num-seqs 20" in text
    assert "s3cret" not in text
    pasted = result.stdout.partition("To paste")[2]
    assert all(len(line) <= 80 for line in result.stdout.partition("To paste")[0].splitlines())
    assert "More KV instead: kv-cache-dtype (+" in text
    assert "--kv-cache-dtype" not in pasted  # 20 rests on the KV that there is now
    assert "--api-key '***'" in " ".join(pasted.replace("\\\n", " ").split())
    assert """$'{"a": ":key: [b]\\x09"}'""" in pasted  # as it was started, and not as an emoji


@pytest.mark.needs_cc
def test_where_max_num_seqs_is_right_the_line_to_paste_takes_one_way_to_more_kv(tmp_path, card, server):
    gpu, variables = card
    port = server.url.rpartition(":")[2]
    state = kept(tmp_path, server.engine)
    with vllm_process(tmp_path, port, flags=("--max-num-seqs", "19")) as pid:
        gpu.set_processes(Process(pid=pid, memory=30 * GIB), Process(pid=1, memory=4 * GIB))
        result = advise("--engine", server.url, "--state-dir", state, variables=variables)
    assert (result.returncode, result.stderr) == (1, "")
    assert "max-num-seqs: leave it at 19" in result.stdout
    assert "More KV instead" not in result.stdout
    pasted = " ".join(result.stdout.partition("To paste")[2].replace("\\\n", " ").split())
    assert pasted.endswith("--max-num-seqs 19 --kv-cache-dtype fp8")


@pytest.mark.needs_cc
def test_the_json_is_what_the_api_shows_and_holds_no_command_line(tmp_path, host, server):
    state = kept(tmp_path, server.engine)
    told_as_json = json.loads(advise("--engine", server.url, "--state-dir", state, "--json", variables=host).stdout)
    (engine,) = told_as_json["engines"]
    assert engine["max_num_seqs"]["recommended"] == 20
    assert engine["max_num_seqs"]["binding"] == "kv"
    assert {flag["flag"] for flag in engine["flags"]} >= {"gpu-memory-utilization", "kv-cache-dtype"}
    assert engine["outlook"]["restart_fits"] == 1
    assert str(tmp_path) not in json.dumps(told_as_json)
    assert "--" not in json.dumps(engine["flags"]).replace("--cudagraph", "").replace("--kv-cache", "")


def test_one_look_says_honestly_that_it_saw_too_little(server):
    result = advise("--engine", server.url)
    assert (result.returncode, result.stderr) == (1, "")
    text = " ".join(result.stdout.split())
    assert "No advice: no load has been seen yet." in text
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_watching_says_for_how_long_it_will_and_only_to_a_terminal(server):
    shown, result = seen_in_a_terminal("advise", "--engine", server.url, "--watch", "4")
    assert re.search(r"watching for another [1-4] s", shown)
    assert "watching" not in result


def test_watching_for_a_moment_counts_what_was_seen_and_says_what_is_missing(server):
    result = advise("--engine", server.url, "--watch", "4")
    assert "not enough seen yet: 0 finished requests in" in " ".join(result.stdout.split())
    assert "100 in 10 min are needed" in " ".join(result.stdout.split())


def test_the_state_of_a_running_daemon_is_read_and_not_written(tmp_path, server):
    state = kept(tmp_path, server.engine)
    before = (tmp_path / "load.json").read_bytes()
    advise("--engine", server.url, "--state-dir", state, "--watch", "2")
    assert (tmp_path / "load.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["load.json"]


def test_a_file_of_a_daemon_that_cannot_be_read_is_left_to_the_daemon(tmp_path, server):
    (tmp_path / "load.json").write_text("half a fi")
    result = advise("--engine", server.url, "--state-dir", str(tmp_path))
    assert "No advice: no load has been seen yet." in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["load.json"]


def test_a_server_that_does_not_answer_is_told():
    result = advise("--engine", "http://127.0.0.1:1")
    assert result.returncode == 1
    assert "127.0.0.1:1: does not answer (connection_refused)." in result.stdout


def test_a_machine_with_nothing_says_what_to_do():
    result = advise(program="tests.exporter.bare")
    assert (result.returncode, result.stderr) == (1, "")
    assert "name one with --engine" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--engine", "not-an-address"], "is not an address"),
        (["--watch", "-1"], "--watch"),
        (["--watch", "inf"], "--watch"),
        (["--nothing"], "--nothing"),
        (["--systemd-drop-in", "--json"], "goes with neither"),
    ],
)
def test_a_wrong_use_exits_with_2(arguments, problem):
    result = advise(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert problem in result.stderr


@pytest.mark.needs_cc
def test_a_drop_in_holds_the_whole_new_command_line_and_no_key(tmp_path, host, server):
    state = kept(tmp_path, server.engine)
    result = advise("--engine", server.url, "--state-dir", state, "--systemd-drop-in", "chat.service", variables=host)
    assert (result.returncode, result.stderr) == (1, "")
    text = result.stdout
    assert text.startswith("# /etc/systemd/system/chat.service.d/50-headroom.conf\n")
    assert "#   max-num-seqs 64 -> 20 (kv)" in text
    assert "s3cret" not in text
    setting = text.partition("[Service]\nExecStart=\n")[2].replace("\\\n", " ")
    words = setting.split()
    assert words[0].startswith("ExecStart=/")
    assert words[words.index("--max-num-seqs") + 1] == "20"
    assert words[words.index("--api-key") + 1] == "PUT-THE-KEY-HERE"
    assert "PUT-THE-KEY-HERE stands for a key that is not shown" in text


@pytest.mark.needs_cc
@pytest.mark.needs_systemd
def test_systemd_has_nothing_to_say_of_a_unit_with_the_drop_in(tmp_path, host, server):
    state = kept(tmp_path, server.engine)
    arguments = ("--engine", server.url, "--state-dir", state, "--systemd-drop-in", "chat.service")
    (tmp_path / "chat.service.d").mkdir()
    (tmp_path / "chat.service.d" / "50-headroom.conf").write_text(advise(*arguments, variables=host).stdout)
    # Without the drop-in it would not start, so it is the drop-in that is judged.
    (tmp_path / "chat.service").write_text("[Service]\nExecStart=/no/such/program\n")
    analyze = ["systemd-analyze", "verify", "--man=no", str(tmp_path / "chat.service")]
    told = subprocess.run(analyze, capture_output=True, text=True, check=False)
    assert (told.returncode, told.stdout, told.stderr) == (0, "", "")


def test_a_drop_in_without_advice_is_a_comment(server):
    result = advise("--engine", server.url, "--systemd-drop-in")
    assert result.returncode == 1
    assert result.stdout.startswith(f"# {server.engine} (m): no advice: no load has been seen yet.")


def test_a_drop_in_for_one_unit_wants_one_server(server):
    other = FakeServer()
    other.page(vllm_page())
    try:
        result = advise("--engine", server.url, "--engine", other.url, "--systemd-drop-in", "chat.service")
    finally:
        other.close()
    assert (result.returncode, result.stdout) == (2, "")
    assert "name it with --engine" in result.stderr


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({"/api/v1/series": (401, {}, b"")}, "wants other credentials"),
        ({"/api/v1/series": (200, {}, b'{"status":"success","data":[]}')}, "it has no series of this engine"),
    ],
)
def test_a_prometheus_that_tells_nothing_is_said_beside_the_advice(server, answers, words):
    store = FakeServer()
    store.answers = answers
    try:
        result = advise("--engine", server.url, "--prometheus", store.url, "--json")
    finally:
        store.close()
    assert json.loads(result.stdout)["engines"][0]["not_yet"]
    assert f"no history of {server.engine}: " in result.stderr
    assert words in result.stderr


def test_a_past_whose_histograms_were_kept_without_buckets_is_told_beside_the_advice(server):
    labels = {"instance": server.engine, "model_name": "m", "engine": "0"}
    running = {"__name__": "vllm:num_requests_running", **labels}
    points = [[time.time() - seconds, "1"] for seconds in (120, 60)]
    store = FakeServer()
    store.answers = {
        f"/api/v1/{endpoint}": (200, {}, json.dumps({"status": "success", "data": data}).encode())
        for endpoint, data in (
            ("series", [running]),
            ("query", {"resultType": "vector", "result": []}),
            ("query_range", {"resultType": "matrix", "result": [{"metric": running, "values": points}]}),
        )
    }
    try:
        result = advise("--engine", server.url, "--prometheus", store.url)
    finally:
        store.close()
    assert f"note: history of {server.engine}: it keeps no buckets of vLLM's histograms" in result.stderr
    assert "no history of" not in result.stderr


@pytest.fixture
def full_card(card):
    """A GPU on which 8 MiB are free."""
    gpu, variables = card
    gpu.set_memory(total=80 * GIB, used=80 * GIB - GIB // 2 - 8 * 1024**2, reserved=GIB // 2)
    gpu.set_processes(Process(pid=1, memory=79 * GIB))
    return variables


@pytest.mark.needs_cc
def test_the_risk_of_a_gpu_is_told_with_every_factor_why_and_what_to_do(server, full_card):
    result = advise("--engine", server.url, variables=full_card)
    text = " ".join(result.stdout.split())
    assert result.returncode == 1
    assert "Out of memory within 15 min with probability 1.00: exhausted 1.00," in text
    assert all(factor in text for factor in ("claims 0.", "trend 0.", "volatility ", "foreign ", "events 0.00"))
    assert "exhausted: 0.01 GiB are free. To do: stop a process that is no engine, or restart" in text
    assert "Behind it: a process that is no vLLM engine." in text
    assert max(map(len, result.stdout.splitlines())) <= 80


@pytest.mark.needs_cc
def test_a_gpu_that_cannot_be_read_is_told_beside_those_that_can(server, tmp_path, nvml_library):
    state = State(tmp_path / "nvml.state")
    state.add_gpu()
    state.add_gpu().fail("*", "GPU_IS_LOST")
    result = advise("--engine", server.url, variables=environment(nvml_library, state))
    assert result.stdout.startswith("GPU 0\n")
    assert "GPU 1" not in result.stdout
    assert result.stderr.splitlines() == ["not read in full: the GPUs (a GPU has fallen off the bus)"]
    assert result.returncode == 1


@pytest.mark.needs_cc
def test_the_json_tells_the_same_risk(server, full_card):
    told_as_json = json.loads(advise("--engine", server.url, "--json", variables=full_card).stdout)
    (gpu,) = told_as_json["gpus"]
    assert (gpu["gpu"], gpu["oom_risk_ratio"], gpu["horizon_seconds"]) == ("0", 1.0, 900.0)
    assert gpu["culprit"] == "a process that is no vLLM engine"
    assert {each["factor"] for each in gpu["factors"]} == set(REMEDIES)
    worst = gpu["factors"][0]
    assert (worst["factor"], worst["ratio"], worst["because"]) == ("exhausted", 1.0, "0.01 GiB are free")
    assert worst["what_to_do"].startswith("stop a process that is no engine")
    assert "gpu_oom_risk" in {finding["rule"] for finding in told_as_json["findings"]}


@pytest.mark.needs_cc
def test_a_gpu_out_of_danger_takes_few_lines(server, card):
    gpu, variables = card
    gpu.set_processes(Process(pid=1, memory=34 * GIB))
    lines = advise("--engine", server.url, variables=variables).stdout.split("\n\n")[0].splitlines()
    assert lines[0] == "GPU 0"
    assert "with probability 0.0" in lines[1]
    assert lines[-3] == "Slack: 45.50 GiB, 45.50 GiB at its lowest. Growth cannot be told yet."
    ledger = " ".join(lines[-2:])
    assert ledger == "Claims: other processes hold 34.00 GiB; in all, with the driver's part, 34.50 GiB of 80.00 GiB."


@pytest.mark.needs_cc
def test_a_driver_that_does_not_say_who_holds_what_is_told_as_such(tmp_path, card, server):
    gpu, variables = card
    with vllm_process(tmp_path, server.url.rpartition(":")[2], flags=("--gpu-memory-utilization", "0.5")) as pid:
        gpu.set_processes(Process(pid=pid, memory=None), Process(pid=1, memory=None))
        text = " ".join(advise("--engine", server.url, variables=variables).stdout.split())
    assert f"Claims: what {server.engine} holds the driver does not tell (its budget: 39.75 GiB). " in text
    assert "claims 0" not in text
    assert "Slack" not in text


@pytest.mark.needs_cc
def test_of_a_gpu_split_by_mig_the_instances_are_told(server, card):
    gpu, variables = card
    gpu.add_mig(0, memory=10 * GIB)
    text = advise("--engine", server.url, variables=variables).stdout
    assert text.startswith("GPU 0:0\n")
    assert "is not known, and so no risk" not in text
