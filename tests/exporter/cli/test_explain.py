"""The command as it is typed: over the stand-in driver, a stand-in server and a real process with a real log."""

import json
import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from exporter.cli.explain import run
from exporter.config import load
from exporter.demo.world import build_demo
from tests.advisor.examples import LLAMA_8B
from tests.end_to_end.real_vllm import RealVllm
from tests.exporter.daemon import FakeServer, vllm_page
from tests.exporter.typed import typed
from tests.nvml_standin.standin import GIB, Process, State, environment

CAPTURES = Path(__file__).parents[2] / "captures" / "vllm"

START = """\
INFO 12-13 02:10:28 __init__.py:1] vLLM API server version 0.32.0
INFO 12-13 02:10:28 core.py:1] Initializing a V1 LLM engine (v0.32.0) with config: model='/models/m', seed=0
INFO 12-13 02:10:28 w.py:1] Model loading took 15.0 GiB memory and 9.100000 seconds
INFO 12-13 02:10:28 w.py:1] Available KV cache memory: 11.93 GiB
INFO 12-13 02:10:28 w.py:1] CUDA graph pool memory: 0.5 GiB (actual), 0.4 GiB (estimated), difference: 0.1 GiB (2%).
"""


def explain(*arguments, **more):
    """Run the command; no line of what it prints for people may be wider than 80."""
    result = typed("explain", *arguments, **more)
    if "--json" not in arguments:
        assert max(map(len, result.stdout.splitlines()), default=0) <= 80
        assert "\x1b" not in result.stdout, "colour is for terminals"
    return result


@pytest.fixture
def page():
    """A server whose 97,664 tokens are 6,104 blocks of 16: 11.92 GiB of an 8B model's cache."""
    fake = FakeServer()
    fake.page(vllm_page(usage=0.25, tokens=97_664))
    yield fake
    fake.close()


@contextmanager
def vllm_process(folder, port, text=START, flags=()):
    """A process that looks like a vLLM server in the process table and has written its start-up log to a file."""
    model = folder / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(LLAMA_8B))
    program = folder / "vllm"
    program.write_text(f"import time\nprint({text!r}, end='', flush=True)\ntime.sleep(300)\n")
    log = folder / "vllm.log"
    with log.open("w") as output:
        started = subprocess.Popen(
            [sys.executable, program, "serve", model, "--port", str(port), *flags], stdout=output, stderr=output
        )
    try:
        end = time.monotonic() + 20
        while log.stat().st_size < len(text) and time.monotonic() < end:
            time.sleep(0.02)
        yield started.pid
    finally:
        started.kill()
        started.wait()


@pytest.mark.needs_cc
def test_every_byte_of_a_gpu_is_explained_from_driver_page_model_and_log(tmp_path, card, page):
    gpu, variables = card
    port = page.url.rpartition(":")[2]
    with vllm_process(tmp_path, port) as pid:
        gpu.set_processes(Process(pid=pid, memory=30 * GIB), Process(pid=1, memory=4 * GIB))
        told = explain("--engine", page.url, "--json", variables=variables)
        shown = explain("--engine", page.url, variables=variables)
    assert (told.returncode, told.stderr) == (0, "")
    explained = json.loads(told.stdout)
    (one,) = explained["gpus"]
    parts = {part["name"]: part for part in one["parts"]}
    assert sum(part["bytes"] for part in one["parts"]) == one["total_bytes"] == 80 * GIB
    assert (parts["weights"]["bytes"], parts["weights"]["origin"]) == (15 * GIB, "reported")
    pool = 6104 * 16 * 128 * 1024
    assert (parts["kv_used"]["bytes"], parts["kv_idle"]["bytes"]) == (pool // 4, pool * 3 // 4)
    assert parts["cuda_graphs"]["bytes"] == GIB // 2
    assert parts["foreign"]["bytes"] == 4 * GIB
    (engine,) = explained["engines"]
    assert engine["start_log"] == "the file that its output goes to"
    assert engine["choices"][-1]["starts"] is False
    assert explained["notes"] == []
    assert (shown.returncode, shown.stderr) == (0, "")
    assert re.search(r"^weights +15\.00 +reported ", shown.stdout, re.MULTILINE)
    assert "It holds 30.00 GiB on GPU 0 for 15.00 GiB of weights" in shown.stdout
    assert "does not start" in shown.stdout


@pytest.mark.needs_cc
def test_where_the_driver_does_not_tell_who_holds_what_that_is_said(tmp_path, card, page):
    gpu, variables = card
    with vllm_process(tmp_path, page.url.rpartition(":")[2]) as pid:
        gpu.set_processes(Process(pid=pid, memory=None), Process(pid=1, memory=None))
        shown = explain("--engine", page.url, variables=variables)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "34.00 GiB are in use; the driver does not tell by whom." in shown.stdout
    assert re.search(r"^weights +15\.00 +reported ", shown.stdout, re.MULTILINE)
    assert "What it holds on GPU 0 the driver does not tell; the parts named here" in " ".join(shown.stdout.split())
    assert "0.00 GiB on GPU" not in shown.stdout


@pytest.mark.needs_cc
def test_gpus_that_the_engine_asked_for_is_not_on_are_left_out(tmp_path, card, page):
    gpu, variables = card
    state = gpu._state
    state.add_gpu()
    with vllm_process(tmp_path, page.url.rpartition(":")[2]) as pid:
        gpu.set_processes(Process(pid=pid, memory=30 * GIB))
        chosen = json.loads(explain("--engine", page.url, "--json", variables=variables).stdout)
        everything = json.loads(explain("--json", variables=variables).stdout)
    assert [each["gpu"] for each in chosen["gpus"]] == ["0"]
    assert [each["gpu"] for each in everything["gpus"]] == ["0", "1"]


@pytest.mark.needs_cc
def test_a_start_that_failed_is_told_from_the_log_named_by_hand(card):
    _, variables = card
    log = CAPTURES / "0.32.0" / "start_failing.log"
    result = explain("--engine", "http://127.0.0.1:1", "--log", str(log), variables=variables)
    assert result.returncode == 1
    assert "It does not answer (connection_refused)." in result.stdout
    assert "one request of 1,048,576 tokens needs 2.00 GiB" in " ".join(result.stdout.split())
    assert "--max-model-len 524160 fits" in result.stdout


def test_a_log_alone_is_explained_without_gpu_and_without_engine():
    result = explain("--log", str(CAPTURES / "0.27.0" / "single.log"), program="tests.exporter.bare")
    assert result.returncode == 0
    assert "vLLM 0.27.0, /models/tiny" in result.stdout
    assert "The KV cache holds 12,288 tokens: 6 requests of full length." in result.stdout
    assert "GPUs: none is readable here (no_driver_library)." in result.stdout


def test_a_machine_with_nothing_says_what_to_do():
    result = explain(program="tests.exporter.bare")
    assert (result.returncode, result.stderr) == (1, "")
    assert "GPUs: none is readable here (no_driver_library)." in result.stdout
    assert "name one with --engine, or a log with --log" in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--engine", "not-an-address"], "is not an address such as http://127.0.0.1:8000"),
        (["--log", "/none/such.log"], "--log: /none/such.log cannot be read"),
        (["--api-key-file", "/none"], "name the server that it is for with --engine"),
        (["--engine", "http://127.0.0.1:1", "--api-key-file", "/none"], "/none cannot be read"),
        (
            ["--engine", "http://127.0.0.1:1", "--engine", "http://127.0.0.1:2", "--log", "pyproject.toml"],
            "it tells of one engine, there are 2",
        ),
    ],
)
def test_a_wrong_use_is_one_line_and_status_2(arguments, problem):
    result = explain(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert problem in result.stderr


@pytest.mark.needs_cc
def test_a_hung_driver_does_not_hang_the_command(tmp_path, nvml_library, page):
    state = State(tmp_path / "nvml.state")
    state.add_gpu()
    state.delay("nvmlDeviceGetMemoryInfo*", None)
    result = explain("--engine", page.url, variables=environment(nvml_library, state))
    assert result.returncode == 0
    assert "GPUs: none is readable here (hung)." in result.stdout


def test_the_demos_world_is_explained(capsys):
    demo = build_demo()
    try:
        assert run(load(None, {}), demo.world, log_file=None, as_json=True) == 0
    finally:
        demo.stop()
    explained = json.loads(capsys.readouterr().out)
    assert [gpu["gpu"] for gpu in explained["gpus"]] == ["0", "1"]
    for gpu in explained["gpus"]:
        assert sum(part["bytes"] for part in gpu["parts"]) == gpu["total_bytes"]
    (engine,) = explained["engines"]
    assert engine["vllm_version"] == "0.32.0"
    assert "--gpu-memory-utilization" in engine["sentences"][-1]


@pytest.mark.needs_vllm
def test_a_real_vllm_on_the_cpu_is_explained_by_its_page_and_its_log(tmp_path):
    executable = Path(os.environ["VLLM_HEADROOM_TEST_VLLM"])
    script = Path(__file__).parents[2] / "end_to_end" / "tiny_model.py"
    subprocess.run([executable.parent / "python", script, tmp_path / "tiny"], check=True)
    flags = ("--num-gpu-blocks-override", "96", "--block-size", "128", "--max-model-len", "2048")
    server = RealVllm(executable, tmp_path / "tiny", *flags, log=tmp_path / "vllm.log")
    try:
        server.wait_until_up()
        explained = json.loads(explain("--engine", server.url, "--json").stdout)
        assert explain("--engine", server.url).returncode == 0
    finally:
        server.stop()
    (engine,) = explained["engines"]
    # 4 layers x (K, V) x 2 KV heads x 64 x 2 bytes = 2 KiB a token, 96 blocks of 128 tokens.
    assert sum(part["bytes"] for part in engine["parts"]) == 96 * 128 * 2048
    assert engine["start_log"] == "the file that its output goes to"
    assert engine["sentences"][0].startswith("It runs on the CPU and holds no GPU memory. Its KV cache is 0.02 GiB")
    assert explained["gpus"] == []
