"""The host on which the stories are played: one stand-in GPU each, real processes that hold its memory."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from advisor.defaults import Device
from advisor.flags import parse_flags
from advisor.model import parse_model
from advisor.plan import EnginePlan, plan_engine
from advisor.versions import parse_version
from bench.live_risk.engine import LOADS, PAGE
from bench.live_risk.story import Member, Story, Teller
from bench.ports import free_port
from tests.nvml_standin.standin import MIB, Gpu, Process, State

VLLM_VERSION = "0.32.0"
_CARD_BYTES, _RESERVED_BYTES, _CARD = 85_520_809_984, 512 * MIB, "NVIDIA H100 80GB HBM3"
CUDA_BYTES = _CARD_BYTES - _RESERVED_BYTES
_ROOT = Path(__file__).parents[2]
_MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


@dataclass(kw_only=True, slots=True)
class Played:
    """One story while it is played."""

    name: str
    story: Story
    gpu: Gpu
    urls: Mapping[str, str]
    """Where each server answers, by its key."""
    running: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    """Processes by the position of their member."""
    held: dict[int, float] = field(default_factory=dict)
    ended_at_seconds: float | None = None

    @property
    def over(self) -> bool:
        """Whether it has come to its end, if it has one."""
        return self.ended_at_seconds is not None


class Stage:
    """Plays all stories at once, each on a GPU of its own. `close` ends every process that was started."""

    def __init__(self, directory: Path, tellers: Mapping[str, Teller], *, seed: int, speed: float) -> None:
        """Put in the GPUs and start everything that is there when the stories begin."""
        self.directory, self._speed = directory, speed
        self.state = State(directory / "nvml.state")
        model = directory / "model"
        model.mkdir()
        (model / "config.json").write_text(json.dumps(_MODEL), encoding="utf-8")
        program = directory / "vllm"
        program.write_text(
            "import sys\n"
            "from bench.live_risk.engine import serve\n"
            "serve(int(sys.argv[sys.argv.index('--port') + 1]))\n",
            encoding="utf-8",
        )
        self._plans: dict[float, EnginePlan] = {}
        self.played = []
        for name, teller in tellers.items():
            story = teller(random.Random(f"{name} {seed}"))  # noqa: S311 - made-up histories, not secrets
            gpu = self.state.add_gpu({"name": _CARD, "memory.total": _CARD_BYTES, "memory.reserved": _RESERVED_BYTES})
            servers = {each.key for each in story.members if each.utilization is not None}
            urls = {key: f"http://127.0.0.1:{free_port()}" for key in sorted(servers)}
            self.played.append(Played(name=name, story=story, gpu=gpu, urls=urls))
        self.play(0.0)

    def play(self, now_seconds: float) -> None:
        """Let every story come to this time."""
        with self.state.together():
            for each in self.played:
                if not each.over and now_seconds <= each.story.seconds:
                    self._play(each, now_seconds)

    def close(self) -> None:
        """End every process."""
        for each in self.played:
            for process in each.running.values():
                process.kill()
            for process in each.running.values():
                process.wait(10)

    def _play(self, played: Played, now_seconds: float) -> None:
        story = played.story
        restarting = story.restart_at_seconds is not None and now_seconds >= story.restart_at_seconds
        for number, member in enumerate(story.members):
            if not member.from_seconds <= now_seconds < member.to_seconds:
                self._end(played, number)
                continue
            if restarting and member.utilization is not None:
                self._end(played, number)
                if not self._would_start(played, member):
                    played.ended_at_seconds = now_seconds
                continue
            if number not in played.running:
                played.running[number] = self._start(played, member)
            wanted = max(0.0, member.level(now_seconds) + self._beside(member, now_seconds))
            rest = sum(size for other, size in played.held.items() if other != number)
            if rest + wanted > CUDA_BYTES:
                # The allocation fails, and with it the process that asked.
                played.ended_at_seconds = now_seconds
                self._end(played, number)
                break
            played.held[number] = wanted
        sizes = {number: round(size / MIB) * MIB for number, size in played.held.items()}
        played.gpu.set_memory(used=sum(sizes.values()))
        played.gpu.set_processes(
            *(Process(pid=played.running[number].pid, memory=size) for number, size in sizes.items())
        )

    def _beside(self, member: Member, now_seconds: float) -> float:
        """Return what a server holds by its plan; one that loads has not yet come to it."""
        if member.utilization is None:
            return 0.0
        memory = self._plan(member.utilization).memory
        assert memory is not None
        loaded = 1.0
        if member.loads_seconds:
            loaded = min(1.0, (now_seconds - member.from_seconds) / member.loads_seconds)
        return memory.budget_and_beside.expected * loaded

    def _would_start(self, played: Played, member: Member) -> bool:
        """VLLM's own check (``v1/worker/utils.py`` ``request_memory``): what is free must reach the budget."""
        assert member.utilization is not None
        memory = self._plan(member.utilization).memory
        assert memory is not None
        context = memory.budget_and_beside.expected - memory.budget_bytes
        return CUDA_BYTES - sum(played.held.values()) - context >= memory.budget_bytes

    def _plan(self, utilization: float) -> EnginePlan:
        if utilization not in self._plans:
            self._plans[utilization] = plan_engine(
                parse_model(_MODEL),
                parse_flags(["vllm", "serve", "model", "--gpu-memory-utilization", str(utilization)]),
                version=parse_version(VLLM_VERSION),
                device=Device(name=_CARD, memory_bytes=CUDA_BYTES, compute_capability=(9, 0)),
            )
        return self._plans[utilization]

    def _start(self, played: Played, member: Member) -> subprocess.Popen[bytes]:
        if member.utilization is None:
            return subprocess.Popen(["sleep", "86400"])  # noqa: S607 - a process with a number and nothing to do
        url = played.urls[member.key]
        model = self.directory / "model"
        pages = self.directory / f"{played.name}-{member.key}"
        pages.mkdir(exist_ok=True)
        for name, text in _pages(self._plan(member.utilization), model).items():
            (pages / name).write_text(text, encoding="utf-8")
        return subprocess.Popen(  # noqa: S603 - our own script
            [
                *(sys.executable, str(self.directory / "vllm"), "serve", str(model), "--port", url.rpartition(":")[2]),
                *("--gpu-memory-utilization", str(member.utilization)),
            ],
            env={
                **os.environ,
                "PYTHONPATH": str(_ROOT),
                PAGE: str(pages),
                LOADS: str(member.loads_seconds / self._speed),
            },
        )

    @staticmethod
    def _end(played: Played, number: int) -> None:
        process = played.running.pop(number, None)
        played.held.pop(number, None)
        if process is not None:
            process.kill()
            process.wait(10)


def _pages(plan: EnginePlan, model: Path) -> dict[str, str]:
    """Return what a server with this plan answers, in the names of vLLM 0.32; three requests run, none waits."""
    blocks = int(plan.num_gpu_blocks.expected)
    same = 'engine="0",model_name="live"'
    cache = (
        f'block_size="{plan.flags.block_size}",cache_dtype="auto",engine="0",'
        f'gpu_memory_utilization="{plan.flags.gpu_memory_utilization}",'
        f'kv_cache_size_tokens="{plan.layout.size_tokens(blocks)}",num_gpu_blocks="{blocks}"'
    )
    figures = (
        ("num_requests_running", "gauge", same, "3"),
        ("num_requests_waiting", "gauge", same, "0"),
        ("kv_cache_usage_perc", "gauge", same, "0.4"),
        ("generation_tokens_total", "counter", same, "{tokens}"),
        ("num_preemptions_total", "counter", same, "0"),
        ("cache_config_info", "gauge", cache, "1"),
    )
    lines = [
        line
        for name, kind, labels, value in figures
        for line in (f"# TYPE vllm:{name} {kind}", f"vllm:{name}{{{labels}}} {value}")
    ]
    lines += ["# TYPE process_start_time_seconds gauge", f"process_start_time_seconds {time.time():.0f}"]
    shown = {"id": "live", "root": str(model), "max_model_len": plan.flags.max_model_len}
    return {
        "metrics": "\n".join([*lines, ""]),
        "version": json.dumps({"version": VLLM_VERSION}),
        "models": json.dumps({"data": [shown]}),
    }
