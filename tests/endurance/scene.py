"""What the fault campaign watches: GPUs and two vLLM servers whose true figures it knows at every moment."""

import math
import re
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

from tests.exporter.daemon import Daemon, FakeServer, vllm_page
from tests.nvml_standin.standin import GIB, Process, State, build, environment

_CLOCK = Path(__file__).with_name("clock_standin.c")
_MAY_BE_NEGATIVE = re.compile("slack|headroom|gap|shortfall")
_MAY_BE_INFINITE = re.compile("time_to")
"""Nothing grows: then it is never reached."""
USED = "headroom_gpu_memory_used_bytes"
RUNNING = "headroom_engine_requests_running"


def build_clock(directory):
    """Compile the stand-in clock and return the library."""
    library = directory / "clock_standin.so"
    if not library.exists():
        unfinished = directory / "clock_standin.unfinished"
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", unfinished, _CLOCK], check=True)
        unfinished.replace(library)
    return library


class Scene:
    """The machine, and what is true of it: ``told`` counts upwards, and every figure follows from it."""

    def __init__(self, directory, *, interval_seconds):
        self.directory = directory
        self.interval_seconds = interval_seconds
        self.state = State(directory / "nvml.state")
        self.victim, self.healthy, split = (self.state.add_gpu() for _ in range(3))
        self.instance = split.add_mig(0, memory=80 * GIB)
        self.server, self.neighbour = FakeServer(), FakeServer()
        self.kept = directory / "kept"
        self.ahead = directory / "ahead"
        self.ahead.write_text("0")
        self.environment = {
            **environment(build(directory / "library"), self.state),
            "LD_PRELOAD": str(build_clock(directory)),
            "CLOCK_STANDIN": str(self.ahead),
            "MALLOC_ARENA_MAX": "2",
        }
        self.broken = None
        """How the first server answers while it is at fault; None for a page."""
        self.held_connections = []
        self.told = 0
        self.running = None
        self.tell()

    def tell(self):
        """Let every figure change at once."""
        self.told += 1
        with self.state.together():
            for number, gpu in enumerate(self.gpus):
                gpu.set_memory(used=self.used_bytes(number), total=80 * GIB, reserved=GIB // 2)
                gpu.set_processes(Process(pid=4_100_000 + number, memory=30 * GIB))
        for number, server in enumerate((self.server, self.neighbour)):
            server.page(vllm_page(running=self.requests(number), generated=1_000 * self.told))
        if self.broken is not None:
            self.broken(self.server)

    def break_server(self, how):
        """Let the first server answer like this from now on, None for as it should."""
        self.broken = how
        self.tell()

    def heal(self):
        """End whatever is wrong."""
        self.ahead.write_text("0")
        self.victim.heal()
        self.state.heal()
        self.state.load_driver()
        self.break_server(None)

    @property
    def gpus(self):
        """Whatever has memory: two GPUs, and the instance of a third one that is split by MIG."""
        return self.victim, self.healthy, self.instance

    def used_bytes(self, number, told=None):
        return (40 + number * 10) * GIB + (self.told if told is None else told) * 4096

    def requests(self, number, told=None):
        return 2 * (self.told if told is None else told) + number

    def truth(self, told=None):
        """Return {(metric, GPU or engine): value} as it is, or as it was after so many changes."""
        gpus = {(USED, gpu.uuid): self.used_bytes(number, told) for number, gpu in enumerate(self.gpus)}
        servers = {
            (RUNNING, server.engine): self.requests(number, told)
            for number, server in enumerate((self.server, self.neighbour))
        }
        return {key: float(value) for key, value in (gpus | servers).items()}

    def flags(self):
        urls = (flag for server in (self.server, self.neighbour) for flag in ("--engine", server.url))
        return ("--poll-interval", str(self.interval_seconds), "--state-dir", str(self.kept), *urls)

    @contextmanager
    def daemon(self, **more):
        """Start the daemon on this machine."""
        running = Daemon(*self.flags(), environment=self.environment, **more)
        self.running = running
        try:
            yield running
        finally:
            running.close()

    def shown(self, metrics):
        """Return what of the truth a page shows."""
        found = {}
        for (name, labels), value in metrics.items():
            if name in (USED, RUNNING):
                found[name, dict(labels)["uuid" if name == USED else "engine"]] = value
        return found

    def is_whole(self):
        """Tell whether everything shows as it is now."""
        return self.shown(self.running.metrics()) == self.truth()

    def wait_until_whole(self, seconds=60.0):
        """Return how long it took until everything showed as it is."""
        began = time.monotonic()
        self.running.wait_for(self.is_whole, seconds=seconds)
        return time.monotonic() - began

    def falsehoods(self, metrics, *, oldest):
        """Return what a page says that is not so, or was not since ``told`` was ``oldest``."""
        found = []
        for (name, labels), value in metrics.items():
            if not name.startswith("headroom_"):
                continue
            if (
                math.isnan(value)
                or (math.isinf(value) and not _MAY_BE_INFINITE.search(name))
                or (value < 0 and not _MAY_BE_NEGATIVE.search(name))
            ):
                found.append(f"{name} {dict(labels)} = {value}")
            if name.endswith("_ratio") and value > 1 and not _MAY_BE_NEGATIVE.search(name):
                found.append(f"{name} {dict(labels)} = {value}, a share of more than all")
            if any(len(text) > 1024 for _, text in labels):
                found.append(f"{name} has a label of {max(len(text) for _, text in labels)} characters")
        was_so = [self.truth(told) for told in range(oldest, self.told + 1)]
        for key, value in self.shown(metrics).items():
            if all(moment.get(key) != value for moment in was_so):
                found.append(f"{key} = {value}; it was {[moment.get(key) for moment in was_so]}")
        return found

    def close(self):
        self.server.close()
        self.neighbour.close()
