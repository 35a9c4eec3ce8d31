"""What the sources read, frozen: GPUs, their processes, engine pages, engine processes.

Only `Gpu` is exported as it is; the rest is what judgements are made from. Process identifiers and command lines
stay in here: no renderer sees them.
"""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar

from advisor.estimate import Origin
from advisor.facts import Fact, described, identity, level, total
from advisor.flags import EngineFlags
from advisor.start_log import StartLog


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu(Fact):
    """One GPU, or one MIG instance, as NVML reports it.

    A GPU split by MIG shows its hardware (power, temperature, errors) here and its memory on its instances, whose
    ``gpu`` label reads ``<index>:<instance>``; so sums over GPUs count no byte twice.
    """

    subject: ClassVar[str] = "gpu"

    gpu: str = identity("Index as nvidia-smi shows it; <index>:<instance> for a MIG instance.")
    uuid: str = identity("UUID of the GPU or MIG instance; survives reboots and reordering.")
    name: str | None = described("product name")
    driver_version: str | None = described("version of the NVIDIA driver")
    cuda_version: str | None = described("newest CUDA version that the driver supports")
    compute_capability: str | None = described("compute capability, as in 9.0")
    mig: str | None = described("MIG profile of an instance, 'parent' for a GPU split by MIG")
    memory_total_bytes: int | None = level(
        "Memory installed, as NVML counts it; CUDA sees a little less.", Origin.REPORTED
    )
    memory_used_bytes: int | None = level(
        "Memory allocated by processes, without what the driver reserves.", Origin.REPORTED
    )
    memory_free_bytes: int | None = level("Memory that a new allocation can still take.", Origin.REPORTED)
    memory_reserved_bytes: int | None = level("Memory that driver and firmware keep for themselves.", Origin.REPORTED)
    utilization_ratio: float | None = level("Share of the last sample period in which a kernel ran.", Origin.REPORTED)
    power_watts: float | None = level("Power drawn by the whole board.", Origin.REPORTED)
    temperature_celsius: float | None = level("Temperature of the GPU die.", Origin.REPORTED)
    throttled: Mapping[str, int] | None = level(
        "1 while clocks are held down for this reason.", Origin.REPORTED, by="reason"
    )
    ecc_uncorrected_errors_total: int | None = total(
        "Uncorrected ECC memory errors over the life of the board (of the driver load where that is all it keeps).",
        Origin.REPORTED,
    )
    row_remap_pending: int | None = level("1 when a memory row waits for a GPU reset to be remapped.", Origin.REPORTED)
    row_remap_failed: int | None = level(
        "1 when remapping a memory row failed: the board is due for replacement.", Origin.REPORTED
    )
    xid_errors_total: Mapping[int, int] | None = total(
        "Xid errors seen since this daemon started watching, by Xid code.", Origin.DERIVED, by="xid"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuProcess:
    """One process that holds memory on a GPU."""

    uuid: str
    pid: int
    """In the NVML driver's PID namespace: the host's."""
    used_bytes: int | None
    """None where the driver does not say (WSL, some containers)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Histogram:
    """A Prometheus histogram at one moment."""

    bounds: tuple[float, ...]
    """Upper bounds, ascending, the last one +Inf."""
    cumulative: tuple[float, ...]
    """Observations at or below each bound."""
    sum: float
    count: float

    @property
    def mean(self) -> float | None:
        """Mean of all observations, None before the first."""
        return self.sum / self.count if self.count > 0 else None


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheConfig:
    """What ``vllm:cache_config_info`` says of one engine, each None where the page does not say."""

    num_gpu_blocks: int | None = None
    """Blocks of one engine, null block included; vLLM repeats the sum over engines, which the source divides."""
    block_size: int | None = None
    kv_cache_size_tokens: int | None = None
    kv_cache_max_concurrency: float | None = None
    gpu_memory_utilization: float | None = None
    kv_cache_memory_bytes: int | None = None
    cache_dtype: str | None = None
    enable_prefix_caching: bool | None = None
    num_gpu_blocks_override: int | None = None
    sliding_window: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineReading:
    """One engine (one data-parallel rank) of one vLLM server, from its /metrics, /version and /v1/models."""

    engine: str
    """Stable id: host:port unless the config names it."""
    url: str
    model_name: str
    dp_rank: str
    vllm_version: str | None = None
    model_path: str | None = None
    """What the server calls the model's root: a directory or a hub id."""
    max_model_len: int | None = None
    requests_running: float | None = None
    requests_waiting: float | None = None
    requests_waiting_for_capacity: float | None = None
    """Waiting without those deferred for other reasons; None where the version does not tell (before 0.20)."""
    kv_usage_ratio: float | None = None
    """Blocks referenced by admitted requests over usable blocks; evictable prefix-cache blocks count as free."""
    sleeping: bool | None = None
    cache: CacheConfig = CacheConfig()
    totals: Mapping[str, float] = field(default_factory=dict)
    """Counters by the names of `exporter.sources.vllm_names`."""
    histograms: Mapping[str, Histogram] = field(default_factory=dict)
    started_at_seconds: float | None = None
    """Start of the API server's process, Unix time; None on multi-process pages."""
    missing: tuple[str, ...] = ()
    """Metrics that this version should show and does not, or only with values that cannot be, such as NaN."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineProcess:
    """One running vLLM server, from the process table."""

    host: str
    """Where it is reached; empty for a container's own network that no address leads into."""
    port: int
    secure: bool
    """Whether it serves TLS."""
    flags: EngineFlags
    pids: frozenset[int]
    """The API server and all its descendants: workers hold the GPU memory."""
    started_at_seconds: float
    model_path: str | None = None
    """Directory of the model as this daemon can open it, None for a hub id not in the local cache."""

    @property
    def address(self) -> str | None:
        """Where its API listens, as ``host:port`` stands in a URL; None where it listens at no such place.

        A headless node has no API, one on a Unix socket no port; and a command line may hold any word.
        """
        is_one = 0 < self.port < 65536 and (_is_ipv6(self.host) or _HOST_NAME.fullmatch(self.host) is not None)
        if self.flags.headless or self.flags.uds is not None or not is_one:
            return None
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def name(self) -> str:
        """Its address, else the end of its model's name, which is no path."""
        return self.address or f"no-address:{(self.flags.model or 'vllm').rstrip('/').rpartition('/')[2][-64:]}"


_HOST_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252}[A-Za-z0-9])?")
"""Of RFC 1123, and the underscore that names of containers have; an IPv4 address is one, too."""


@lru_cache(maxsize=1024)
def _is_ipv6(host: str) -> bool:
    try:
        return ipaddress.IPv6Address(host).scope_id is None  # a URL spells an interface in another way
    except ValueError:
        return False


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineHostMemory:
    """The host memory of one server's processes against the limit of their cgroup, the tightest of several."""

    host: str
    """As in `EngineProcess`."""
    port: int
    limit_bytes: int
    used_bytes: int
    """What the kernel cannot take back: without cached files."""
    oom_kills: int | None
    """Processes that the kernel has ended there for want of memory; None where it does not tell."""

    @property
    def used_ratio(self) -> float:
        """Share of the limit that is in use."""
        return self.used_bytes / self.limit_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineStartLog:
    """What was found of one server's start-up log."""

    host: str | None
    """As in `EngineProcess`; None for a log that was given by hand, which then tells of every server."""
    port: int | None
    log: StartLog | None
    """None where it cannot be read or holds no start."""
    found: str
    """Where it was read (``the journal of vllm.service``), or why it was not, for people."""
