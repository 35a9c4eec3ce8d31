"""A load test of a real vLLM 0.32 on the CPU, and the simulation of the same load. Counts only: wall time is noise."""

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.real_vllm import RealVllm

pytestmark = pytest.mark.needs_vllm

BLOCKS, BLOCK_TOKENS, MAX_MODEL_LEN = 24, 128, 1024
FLAGS = (
    *("--num-gpu-blocks-override", str(BLOCKS), "--block-size", str(BLOCK_TOKENS)),
    *("--max-model-len", str(MAX_MODEL_LEN), "--max-num-seqs", "32"),
)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    vllm = Path(os.environ["VLLM_HEADROOM_TEST_VLLM"])
    directory = tmp_path_factory.mktemp("load")
    script = Path(__file__).parent / "tiny_model.py"
    subprocess.run([vllm.parent / "python", script, directory / "tiny"], check=True)
    running = RealVllm(vllm, directory / "tiny", *FLAGS, log=directory / "server.log")
    running.wait_until_up()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    """Requests at once, whose outputs grow far beyond what the cache holds, and that take a fast machine seconds."""
    chance = random.Random(3)
    rows = [f"{number / 1000},{chance.randint(40, 200)},{chance.randint(40, 160)}" for number in range(200)]
    file = tmp_path_factory.mktemp("trace") / "trace.csv"
    file.write_text("seconds,prompt_tokens,output_tokens\n" + "\n".join(rows) + "\n")
    return file


def ours(*words):
    ended = subprocess.run(
        [sys.executable, "-m", "exporter", words[0], "--json", *words[1:]], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def total(page, name):
    return sum(float(value) for value in re.findall(rf"^vllm:{name}{{[^}}]*}} (\S+)$", page, re.MULTILINE))


def test_every_request_and_token_is_one_that_the_server_counted(server):
    before = server.metrics()
    found = ours(
        *("bench", "--url", server.url, "--users", "2,6", "--requests", "12", "--prompt-tokens", "60"),
        *("--output-tokens", "30", "--duration", "600", "--timeout", "600"),
    )
    after = server.metrics()
    assert [(each["users"], each["completed"], each["failed"]) for each in found["levels"]] == [(2, 12, 0), (6, 12, 0)]
    assert all(each["exact_tokens"] for each in found["levels"])
    for name, ours_sum in (
        ("generation_tokens_total", sum(each["output_tokens"] for each in found["levels"])),
        ("prompt_tokens_total", sum(each["prompt_tokens"] for each in found["levels"])),
        ("request_success_total", 24),
    ):
        assert total(after, name) - total(before, name) == ours_sum, name
    assert found["server"]["max_num_seqs"] == 32
    assert found["server"]["kv_capacity_tokens"] == BLOCKS * BLOCK_TOKENS
    assert found["levels"][1]["seen"]["running"]["peak"] <= 6


def test_the_simulation_of_the_same_load_comes_to_the_same_counts(server, trace, tmp_path):
    load = ("--trace", str(trace))
    real = ours("bench", "--url", server.url, *load, "--duration", "600", "--timeout", "600")
    times = tmp_path / "bench.json"
    times.write_text(json.dumps(real))
    simulated = ours(
        *("simulate", *load, "--kv-tokens", str((BLOCKS - 1) * BLOCK_TOKENS), "--block-size", str(BLOCK_TOKENS)),
        *("--max-model-len", str(MAX_MODEL_LEN), "--max-num-seqs", "32", "--no-async-scheduling"),
        *("--vllm-version", "0.32.0", "--step-times", str(times)),
    )
    (level,), (setting,) = real["levels"], simulated["settings"]
    assert level["completed"] == setting["requests"] == 200
    assert level["output_tokens"] == setting["output_tokens"]
    seen = level["seen"]
    assert seen["preemptions"] > 0, "the load was meant to overfill the cache"
    assert setting["preemptions"] == pytest.approx(seen["preemptions"], rel=0.3, abs=3)
    assert setting["steps"] == pytest.approx(seen["steps"], rel=0.1)
    assert setting["shown"]["peak_running"] == pytest.approx(seen["running"]["peak"], abs=3)
    shown = setting["shown"]
    running, usage = seen["running"]["mean_per_step"], seen["kv_usage_ratio"]["mean_per_step"]
    assert shown["mean_running_per_step"] == pytest.approx(running, rel=0.15)
    assert shown["mean_kv_usage_ratio_per_step"] == pytest.approx(usage, rel=0.15)
