"""The stand-in world: an NVML library, a process table, and the engine, all telling one story."""

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pynvml

from advisor.defaults import Device
from advisor.flags import parse_flags
from advisor.model import parse_model
from advisor.plan import plan_engine
from advisor.simulate import SchedulerConfig
from advisor.units import MIB
from advisor.versions import parse_version
from exporter.clock import Clock
from exporter.demo.engine import MODEL_NAME, VLLM_VERSION, DemoEngine
from exporter.demo.story import Moment, moment
from exporter.service import World

_CARD_BYTES = 23_034 * MIB
_RESERVED_BYTES = 446 * MIB
_ENGINE_PID, _WORKER_PID, _NEIGHBOUR_PID = 3_000_001, 3_000_002, 3_000_003
"""Above the kernel's largest process id, so that no real process is ever taken for one of these."""

_MODEL_CONFIG = {
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Demo:
    """A stand-in world and what must be stopped with it."""

    world: World
    engine: DemoEngine
    directory: tempfile.TemporaryDirectory[str]

    def stop(self) -> None:
        """Stop the engine and remove the made-up model."""
        self.engine.stop()
        self.directory.cleanup()


def build_demo(clock: Clock | None = None) -> Demo:
    """Return a world in which the demo's story runs; its engine is started."""
    clock = clock or Clock()
    directory = tempfile.TemporaryDirectory(prefix="vllm-headroom-demo-")
    (Path(directory.name) / "config.json").write_text(json.dumps(_MODEL_CONFIG), encoding="utf-8")
    argv = ["vllm", "serve", directory.name, "--served-model-name", MODEL_NAME, "--max-num-seqs", "64"]
    plan = plan_engine(
        parse_model(_MODEL_CONFIG),
        parse_flags(argv),
        version=parse_version(VLLM_VERSION),
        device=Device(name="demo GPU", memory_bytes=_CARD_BYTES - _RESERVED_BYTES),
    )
    memory = plan.memory
    assert memory is not None
    flags = plan.flags
    num_gpu_blocks = int(plan.num_gpu_blocks.expected * 0.985)
    pool_bytes = num_gpu_blocks * plan.layout.bytes_per_block
    started = clock.steady()

    def now_in_story() -> Moment:
        free_for_neighbour = _CARD_BYTES - _RESERVED_BYTES - 8 * MIB
        return moment(clock.steady() - started, neighbour_limit_bytes=free_for_neighbour)

    engine = DemoEngine(
        SchedulerConfig.for_version(
            (0, 32),
            num_gpu_blocks=num_gpu_blocks,
            block_size=flags.block_size,
            max_num_seqs=flags.max_num_seqs,
            max_num_batched_tokens=flags.max_num_batched_tokens,
            max_model_len=flags.max_model_len,
        ),
        cache_config={
            "block_size": str(flags.block_size),
            "cache_dtype": "auto",
            "enable_prefix_caching": "True",
            "gpu_memory_utilization": str(flags.gpu_memory_utilization),
            "kv_cache_max_concurrency": str(plan.layout.max_concurrency(num_gpu_blocks)),
            "kv_cache_memory_bytes": "None",
            "kv_cache_size_tokens": str(plan.layout.size_tokens(num_gpu_blocks)),
            "num_gpu_blocks": str(num_gpu_blocks),
            "num_gpu_blocks_override": "None",
        },
        model_path=directory.name,
        arrivals_per_second=lambda: now_in_story().arrivals_per_second,
        clock=clock,
    )
    beside_pool = memory.beside_kv.expected - 0.4 * memory.activation_peak.expected
    busiest = 0

    def engine_bytes() -> int:
        """The allocator keeps what its largest step took: the process grows with the busiest moment, then stays."""
        nonlocal busiest
        busiest = max(busiest, engine.num_running)
        reached = min(1.0, busiest / 16)
        return int(pool_bytes + beside_pool + 0.35 * memory.activation_peak.expected * reached)

    def neighbour_pid() -> int:
        return _NEIGHBOUR_PID + now_in_story().neighbour_deaths

    engine.start()
    gpus = (
        _DemoGpu(index=0, processes=lambda: [(_WORKER_PID, engine_bytes())], busy=lambda: engine.num_running / 20),
        _DemoGpu(index=1, processes=lambda: [(neighbour_pid(), now_in_story().neighbour_bytes)], busy=lambda: 0.4),
    )
    world = World(
        nvml=DemoNvml(gpus),
        processes=DemoProcesses([*argv, "--port", str(engine.port)], clock.wall(), neighbour_pid=neighbour_pid),
        clock=clock,
        mode="demo",
    )
    return Demo(world=world, engine=engine, directory=directory)


@dataclass(frozen=True, kw_only=True, slots=True)
class _DemoGpu:
    index: int
    processes: Callable[[], list[tuple[int, int]]]
    busy: Callable[[], float]

    @property
    def load(self) -> float:
        return min(1.0, max(0.02, self.busy()))


class DemoNvml:
    """Answers the questions of `exporter.sources.nvml` as nvidia-ml-py would; all else is nvidia-ml-py itself."""

    def __init__(self, gpus: Sequence[_DemoGpu]) -> None:
        """Take the GPUs to show."""
        self._gpus = gpus

    def __getattr__(self, name: str) -> Any:
        """Constants and exceptions are the real library's; a function not stood in for is not supported."""
        value = getattr(pynvml, name)
        if name.startswith("nvml") and callable(value):
            return _not_supported
        return value

    def nvmlInit(self) -> None:  # noqa: N802
        """There is nothing to load."""

    def nvmlShutdown(self) -> None:  # noqa: N802
        """There is nothing to let go of."""

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        """A driver's version that no driver has."""
        return "demo"

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        """How many GPUs there are."""
        return len(self._gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> _DemoGpu:  # noqa: N802
        """A GPU is its own handle."""
        return self._gpus[index]

    def nvmlDeviceGetUUID(self, gpu: _DemoGpu) -> str:  # noqa: N802
        """An identity that no GPU has."""
        return f"GPU-demo-{gpu.index}"

    def nvmlDeviceGetName(self, gpu: _DemoGpu) -> str:  # noqa: N802
        """A product that nobody sells."""
        return "Demo GPU 24 GB"

    def nvmlDeviceGetMemoryInfo(self, gpu: _DemoGpu, version: int | None = None) -> Any:  # noqa: N802
        """Memory as version 2 of the question tells it."""
        used = sum(size for _, size in gpu.processes())
        return SimpleNamespace(
            total=_CARD_BYTES, reserved=_RESERVED_BYTES, used=used, free=_CARD_BYTES - _RESERVED_BYTES - used
        )

    def nvmlDeviceGetComputeRunningProcesses_v3(self, gpu: _DemoGpu) -> list[Any]:  # noqa: N802
        """What computes on a GPU."""
        return [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in gpu.processes()]

    def nvmlDeviceGetGraphicsRunningProcesses_v3(self, gpu: _DemoGpu) -> list[Any]:  # noqa: N802
        """Nothing draws."""
        return []

    nvmlDeviceGetMPSComputeRunningProcesses_v3 = nvmlDeviceGetGraphicsRunningProcesses_v3  # noqa: N815

    def nvmlDeviceGetUtilizationRates(self, gpu: _DemoGpu) -> Any:  # noqa: N802
        """Busy in step with the story."""
        return SimpleNamespace(gpu=round(100 * gpu.load), memory=round(60 * gpu.load))

    def nvmlDeviceGetPowerUsage(self, gpu: _DemoGpu) -> int:  # noqa: N802
        """Milliwatts."""
        return int(1000 * (18 + 54 * gpu.load))

    def nvmlDeviceGetTemperature(self, gpu: _DemoGpu, sensor: int) -> int:  # noqa: N802
        """Degrees Celsius."""
        return int(38 + 34 * gpu.load)

    def nvmlDeviceGetTotalEccErrors(self, gpu: _DemoGpu, kind: int, counter: int) -> int:  # noqa: N802
        """A healthy board."""
        return 0

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, gpu: _DemoGpu) -> int:  # noqa: N802
        """The power cap holds the clocks down at full load."""
        return 0x4 if gpu.load > 0.95 else 0


def _not_supported(*_: Any) -> Any:
    raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)


class DemoProcesses:
    """A process table with one vLLM server, its worker and a neighbour; its exceptions are psutil's."""

    Error = psutil.Error
    NoSuchProcess = psutil.NoSuchProcess
    AccessDenied = psutil.AccessDenied
    ZombieProcess = psutil.ZombieProcess

    def __init__(self, argv: list[str], started_at_seconds: float, *, neighbour_pid: Callable[[], int]) -> None:
        """Take the server's command line, and who the neighbour is now: it dies and comes back as another."""
        self._argv = argv
        self._neighbour_pid = neighbour_pid
        self._started_at_seconds = started_at_seconds

    def pids(self) -> list[int]:
        """Every process there is."""
        return [_ENGINE_PID, _WORKER_PID, self._neighbour_pid()]

    def Process(self, pid: int) -> Any:  # noqa: N802 - psutil's name
        """One process."""
        server = pid == _ENGINE_PID
        return SimpleNamespace(
            pid=pid,
            create_time=lambda: self._started_at_seconds,
            cmdline=lambda: self._argv if server else ["python", "notebook.py"],
            cwd=lambda: "/",
            environ=dict,
            ppid=lambda: _ENGINE_PID if pid == _WORKER_PID else 1,
        )
