"""The script that runs a real GPU out of memory, over stand-ins: what it says is checked, not the GPU."""

import json
import os
import subprocess
import sys
import time

import pytest

from advisor.policy import Policy
from advisor.units import GIB, MIB
from bench.gpu_oom.__main__ import Look, steps_of, told
from bench.gpu_oom.holder import Cuda, taken
from tests.nvml_standin.standin import Process, State, environment


class FakeCuda:
    """A driver with so many bytes left."""

    def __init__(self, left_bytes, *, fails_with=None):
        self.left_bytes = left_bytes
        self.fails_with = fails_with

    def cuInit(self, flags):
        return 0

    def cuDeviceGet(self, device, ordinal):
        return 0 if ordinal == 0 else 101

    def cuCtxCreate_v2(self, context, flags, device):
        return 0

    def cuMemAlloc_v2(self, address, size):
        if self.fails_with:
            return self.fails_with
        if size.value > self.left_bytes:
            return 2
        self.left_bytes -= size.value
        return 0


def lines_of(cuda, **settings):
    waited = []
    usual = {"hold_bytes": 0, "grow_bytes_per_second": 0.0, "piece_bytes": 64 * MIB, "most_seconds": 60.0}
    return list(taken(Cuda(cuda, 0).allocate, **{**usual, **settings}, sleep=waited.append)), waited


def test_a_process_holds_what_it_is_told_and_grows_until_there_is_no_more():
    lines, waited = lines_of(FakeCuda(GIB), hold_bytes=GIB // 2, grow_bytes_per_second=128 * MIB)

    assert lines[0] == {"allocated_bytes": GIB // 2}
    assert lines[-1] == {"out_of_memory": True, "allocated_bytes": GIB}
    assert waited == [0.5] * 9


def test_a_process_that_only_holds_ends_after_its_time():
    lines, waited = lines_of(FakeCuda(GIB), hold_bytes=GIB // 4, most_seconds=3.0)

    assert lines == [{"allocated_bytes": GIB // 4}]
    assert sum(waited) == 3.0


def test_what_cuda_refuses_for_another_reason_is_told_with_its_number():
    with pytest.raises(RuntimeError, match="cuDeviceGet fails with 101"):
        Cuda(FakeCuda(GIB), 1)
    with pytest.raises(RuntimeError, match="cuMemAlloc_v2 fails with 700"):
        Cuda(FakeCuda(GIB, fails_with=700), 0).allocate(MIB)


@pytest.mark.parametrize("story", ["leak", "spike", "arrival"])
def test_every_story_takes_more_than_there_is(story):
    (first, *_), *others = ((start, *words) for start, words in steps_of(story, 80_000))
    assert first == 0.0
    assert len(others) == (1 if story == "arrival" else 0)


def look(seconds, risk):
    return Look(seconds=seconds, risk_ratio=risk, oom_in_seconds=None, free_bytes=None)


def test_a_warning_counts_from_when_it_stayed():
    looks = [look(0, 0.0), look(1, 0.3), look(2, 0.1), look(3, 0.4), look(4, 0.8), look(9, None)]
    result = told(looks, 5.0, Policy())

    assert (result.warned_seconds, result.critical_seconds) == (3, 4)
    assert told(looks, None, Policy()).warned_seconds is None, "the last look said nothing"


@pytest.mark.needs_cc
def test_a_gpu_that_somebody_uses_is_left_alone(tmp_path, nvml_library):
    state = State(tmp_path / "nvml.state")
    gpu = state.add_gpu()
    gpu.set_memory(total=8 * GIB, used=GIB)
    gpu.set_processes(Process(pid=1, memory=GIB))
    argv = [sys.executable, "-m", "bench.gpu_oom", "--write", str(tmp_path / "out.json")]
    result = subprocess.run(
        argv,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment(nvml_library, state)},
        timeout=60,
    )

    assert result.returncode == 2
    assert "in use by 1 processes, which would fail with it: nothing was done" in result.stdout
    assert not (tmp_path / "out.json").exists()


HOLDER = f"""#!{sys.executable}
import json, time
for step in range(8):
    print(json.dumps(dict(allocated_bytes=step)), flush=True)
    time.sleep(0.5)
print(json.dumps(dict(out_of_memory=True, allocated_bytes=8)), flush=True)
"""


@pytest.mark.needs_cc
def test_a_story_is_written_down_with_what_the_daemon_said_of_it(tmp_path, nvml_library):
    state = State(tmp_path / "nvml.state")
    gpu = state.add_gpu()
    gpu.set_memory(total=8 * GIB, used=0, reserved=0)
    holder = tmp_path / "holder"
    holder.write_text(HOLDER)
    holder.chmod(0o755)
    argv = [sys.executable, "-m", "bench.gpu_oom", "--calm-seconds", "3", "--holder", str(holder)]
    with subprocess.Popen(
        [*argv, "--write", str(tmp_path / "out.json")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment(nvml_library, state)},
    ) as run:
        time.sleep(3)
        gpu.set_memory(total=8 * GIB, used=8 * GIB - 4 * MIB, reserved=0)
        out, _ = run.communicate(timeout=60)
    written = json.loads((tmp_path / "out.json").read_text())

    assert run.returncode == 0
    assert "out_of_memory: " in out
    assert written["processes"][-1]["out_of_memory"] is True
    assert {look["free_bytes"] for look in written["looks"]} >= {4 * MIB}
    assert max(look["risk_ratio"] or 0.0 for look in written["looks"]) > 0.5
