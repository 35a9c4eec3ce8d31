"""The collection loop with a clock that a test moves: how long what was read is shown, and what it remembers."""

import json
import math
from types import SimpleNamespace

import psutil
import pynvml
import pytest

from advisor.readings import Gpu
from advisor.risk_state import GpuState, Observation, observe, to_json
from exporter.clock import Clock
from exporter.config import Config, EngineConfig
from exporter.service import Service, World
from exporter.state import FORMAT
from tests.nvml_standin.standin import GIB, Process

NO_PROCESSES = SimpleNamespace(**{**vars(psutil), "pids": list})


@pytest.fixture
def now():
    """Steady seconds, to be moved; the wall clock is ahead by a fixed time."""
    return [1_000.0]


@pytest.fixture
def card(nvml):
    gpu = nvml.add_gpu()
    gpu.set_memory(total=80 * GIB, used=60 * GIB)
    return gpu


@pytest.fixture
def started(card, now, tmp_path):
    """Start a service over one GPU, with the state that another one left."""

    def start(**config):
        world = World(
            nvml=pynvml,
            processes=NO_PROCESSES,
            clock=Clock(wall=lambda: 1.7e9 + now[0], steady=lambda: now[0]),
        )
        return Service(Config(state_dir=tmp_path, **config), world)

    return start


@pytest.mark.needs_cc
def test_what_was_read_is_shown_for_two_and_a_half_intervals(started, now):
    service = started(poll_interval=4.0)
    service.once()

    def shown():
        return any(isinstance(fact, Gpu) for fact in service.facts()), service.published() is not None

    now[0] += 10.0
    assert shown() == (True, True)
    now[0] += 0.1
    assert shown() == (False, False)
    assert {each.collector for each in service.health()} >= {"nvml", "advice"}, "health is always told"


@pytest.mark.needs_cc
def test_the_workers_on_the_gpus_that_the_configuration_names_are_the_servers(card, now):
    """As Ray starts them: children of its own daemon."""

    def process(pid):
        argv = ["vllm", "serve", "m", "--port", "9"] if pid == 7 else ["ray::RayWorkerWrapper"]
        return SimpleNamespace(
            pid=pid, create_time=lambda: 0.0, cmdline=lambda: argv, cwd=lambda: "/", environ=dict, ppid=lambda: 1
        )

    card.set_processes(Process(pid=8, memory=50 * GIB))
    processes = SimpleNamespace(**{**vars(psutil), "pids": lambda: [7, 8], "Process": process})
    world = World(nvml=pynvml, processes=processes, clock=Clock(wall=lambda: 1.7e9, steady=lambda: now[0]))
    for gpus, pids in (((), {7}), (("0",), {7, 8})):
        engine = EngineConfig(url="http://127.0.0.1:9", gpus=gpus)
        (server,) = Service(Config(engines=(engine,)), world).once().snapshot.servers
        assert server.pids == pids


def leave_behind(directory, uuid, *, steady_seconds, wall_seconds):
    """Leave what a daemon knew that had watched this GPU for an hour, at the end of which it fell off the bus."""
    state = GpuState()
    for seconds in (3_600.0, 0.0):
        seen = Observation(
            now_seconds=steady_seconds - seconds,
            free_bytes=20 * GIB,
            holders=(),
            xid_errors={} if seconds else {79: 1},
        )
        state = observe(state, seen, horizon_seconds=900.0)
    content = {"wall_seconds": wall_seconds, "steady_seconds": steady_seconds, "states": to_json({uuid: state})}
    (directory / "risk.json").write_text(json.dumps({"format": FORMAT, "content": content}))


@pytest.mark.needs_cc
def test_what_was_remembered_of_a_gpu_is_moved_onto_this_boots_clock(started, card, now, tmp_path):
    """The error weighs 0.5 and fades e-fold in a horizon: fifteen minutes passed, in which the machine started anew."""
    leave_behind(tmp_path, card.uuid, steady_seconds=5e6, wall_seconds=1.7e9 + now[0] - 900.0)
    (gpu,) = started().once().report.gpus
    assert gpu.oom_risk_factor_ratio["events"] == pytest.approx(0.5 / math.e, rel=1e-6)


@pytest.mark.needs_cc
@pytest.mark.parametrize(("hours", "is_known"), [(47, True), (49, False), (-1, False)])
def test_what_was_remembered_of_a_gpu_is_good_for_two_days(started, card, now, tmp_path, hours, is_known):
    leave_behind(tmp_path, card.uuid, steady_seconds=5e6, wall_seconds=1.7e9 + now[0] - 3_600.0 * hours)
    (gpu,) = started().once().report.gpus
    assert (gpu.memory_growth_bytes_per_second is not None) is is_known, "two minutes must have been seen"
