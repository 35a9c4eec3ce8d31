"""A machine of several GPUs, with vLLM servers on them that come and go, for the real daemon to watch."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

from tests.advisor.examples import LLAMA_8B
from tests.end_to_end.real_vllm import free_port
from tests.nvml_standin.standin import GIB, Process, State, build, environment

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "tests/captures/vllm/0.32.0/single_after_load.metrics"


class VllmProcess:
    """One fake vLLM server in a process of its own, by its name a model's."""

    def __init__(self, directory, name):
        self.name = name
        self._program = directory / "vllm"
        self._model = directory / "models" / name
        if not self._program.exists():
            shutil.copy(Path(__file__).with_name("vllm_process.py"), self._program)
        self._model.mkdir(parents=True, exist_ok=True)
        (self._model / "config.json").write_text(json.dumps(LLAMA_8B))
        self.process = None
        self.port = None
        self._ports = [free_port(), free_port()]

    @property
    def engine(self):
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self):
        return self.process.pid

    def start(self):
        """Begin serving, on the other one of its two ports."""
        self._ports.reverse()
        self.port = self._ports[0]
        argv = [sys.executable, str(self._program), "serve", str(self._model), "--port", str(self.port)]
        self.process = subprocess.Popen(argv, env={**os.environ, "RECORDED_PAGE": str(PAGE)})
        end = time.monotonic() + 20
        while time.monotonic() < end:
            with suppress(OSError), urlopen(f"http://{self.engine}/polls", timeout=2):
                return
            time.sleep(0.05)
        raise AssertionError(f"{self.name} did not start")

    def polls(self):
        """Return how often its page was read."""
        with urlopen(f"http://{self.engine}/polls", timeout=5) as answer:
            return json.load(answer)["polls"]

    def stop(self, number=signal.SIGKILL):
        """End it, by default without any chance to say so."""
        self.process.send_signal(number)
        if number != signal.SIGSTOP:
            self.process.wait(10)

    def close(self):
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Machine:
    """GPUs with one server and one other process each."""

    def __init__(self, directory, *, gpus):
        self.directory = directory
        self.state = State(directory / "nvml.state")
        self.environment = environment(build(directory / "library"), self.state)
        self.environment["ONLY_CHILDREN_OF"] = str(os.getpid())
        self.gpus = [self.state.add_gpu() for _ in range(gpus)]
        self.engines = [VllmProcess(directory, f"model-{number}") for number in range(gpus)]
        self._others = 4_000_000  # above the kernel's largest process id

    def start(self):
        for engine in self.engines:
            engine.start()
        self.settle()

    def settle(self):
        """Let the driver list the servers that run now, each with another new neighbour."""
        with self.state.together():
            for gpu, engine in zip(self.gpus, self.engines, strict=True):
                self._others += 1
                gpu.set_memory(used=70 * GIB + self._others % 7 * GIB // 64)
                gpu.set_processes(
                    Process(pid=engine.pid, memory=66 * GIB), Process(pid=self._others, memory=GIB + self._others % 5)
                )

    def close(self):
        for engine in self.engines:
            engine.close()
