"""All fresh readings of one moment, and who belongs to whom."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from urllib.parse import urlsplit

from advisor.model_files import ModelFiles
from advisor.readings import EngineHostMemory, EngineProcess, EngineReading, EngineStartLog, Gpu, GpuProcess
from advisor.units import GIB

_HERE = frozenset({"127.0.0.1", "localhost", "::1", "0.0.0.0", "::"})  # noqa: S104 - compared with, not bound to


_DRIVERS_OWN_BYTES = GIB
_DRIVERS_OWN_RATIO = 0.02
"""Page tables, rounding and what drivers before 510 reserve stay below these; an engine does not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineTarget:
    """A server that should be there, whether it answers or not."""

    engine: str
    url: str
    failing: str | None
    """Why the last read failed; None while it succeeds."""
    ranks: tuple[tuple[str, str], ...] = ()
    """(model name, data-parallel rank) of each of its engines when it last answered."""
    gpus: tuple[str, ...] = ()
    """Index or UUID of those that the configuration says are its own."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Frozen input of every judgement. What is not fresh is not in it."""

    now_seconds: float
    """Steady clock."""
    gpus: tuple[Gpu, ...] = ()
    gpu_processes: tuple[GpuProcess, ...] = ()
    servers: tuple[EngineProcess, ...] = ()
    visible_pids: frozenset[int] | None = None
    """Every process in the table that `servers` were found in; None where the table was not read."""
    engines: tuple[EngineReading, ...] = ()
    targets: tuple[EngineTarget, ...] = ()
    models: tuple[ModelFiles, ...] = ()
    start_logs: tuple[EngineStartLog, ...] = ()
    host_memory: tuple[EngineHostMemory, ...] = ()

    def server_at(self, url: str) -> EngineProcess | None:
        """Return the local process that serves this address, None for a remote or unmapped server."""
        host, port = _host_and_port(url)
        there = self._servers_by_port.get(port, ())
        here = [server for server in there if {host, server.host} <= _HERE]  # 127.0.0.1 and ::1 are two places
        # A URL's host is read in lower case.
        return next((server for server in there if server.host.lower() == host), here[0] if here else None)

    def gpus_of(self, server: EngineProcess) -> tuple[Gpu, ...]:
        """Return the GPUs on which this server's processes hold memory, in order of their index."""
        uuids = {process.uuid for process in self.gpu_processes if process.pid in server.pids}
        return tuple(sorted((gpu for gpu in self.gpus if gpu.uuid in uuids), key=_gpu_order))

    def processes_on(self, gpu: Gpu) -> tuple[GpuProcess, ...]:
        """Return the processes that hold memory on a GPU."""
        return self._processes_by_gpu.get(gpu.uuid, ())

    def held_on(self, gpu: Gpu, pids: frozenset[int]) -> int | None:
        """Return the bytes that these processes hold on a GPU, None where that cannot be told.

        Where the driver does not split memory by process (WSL, vGPU), they hold what is in use and nobody else's, if it
        is known of everybody else.
        """
        listed = self.processes_on(gpu)
        held = process_bytes(process for process in listed if process.pid in pids)
        if held is not None:
            return held
        others = process_bytes(process for process in listed if process.pid not in pids)
        return None if others is None or gpu.memory_used_bytes is None else max(0, gpu.memory_used_bytes - others)

    def with_errors_of_its_board(self, gpu: Gpu) -> Gpu:
        """Return a MIG instance with the hardware's errors, which NVML tells of its board; any other GPU as it is."""
        board = next((each for each in self.gpus if each.mig == "parent" and gpu.gpu.startswith(f"{each.gpu}:")), None)
        if board is None:
            return gpu
        return replace(
            gpu,
            xid_errors_total=board.xid_errors_total,
            ecc_uncorrected_errors_total=board.ecc_uncorrected_errors_total,
            row_remap_pending=board.row_remap_pending,
            row_remap_failed=board.row_remap_failed,
        )

    def hidden_on(self, gpu: Gpu) -> tuple[GpuProcess, ...]:
        """Return the processes on a GPU that the process table does not show: those of another PID namespace."""
        if self.visible_pids is None:
            return ()
        return tuple(process for process in self.processes_on(gpu) if process.pid not in self.visible_pids)

    def unowned_on(self, gpu: Gpu) -> int:
        """Return the bytes in use on a GPU that no listed process holds, 0 where that is no more than a driver keeps.

        A driver lists no process at all to a container with a PID namespace of its own.
        """
        held = process_bytes(self.processes_on(gpu))
        if gpu.memory_used_bytes is None or gpu.memory_total_bytes is None or held is None:
            return 0
        unowned = gpu.memory_used_bytes - held
        return unowned if unowned > max(_DRIVERS_OWN_BYTES, _DRIVERS_OWN_RATIO * gpu.memory_total_bytes) else 0

    def is_here(self, url: str) -> bool:
        """Tell whether an address is of this host by its own look: loopback."""
        return urlsplit(url).hostname in _HERE

    def readings_of(self, engine: str) -> tuple[EngineReading, ...]:
        """Return the readings of one server's engines, in order of rank."""
        return tuple(reading for reading in self.engines if reading.engine == engine)

    def start_log_of(self, server: EngineProcess | None) -> EngineStartLog | None:
        """Return what was found of a server's start-up log; one given by hand tells of any server."""
        here = (None, None) if server is None else (server.host, server.port)
        return next((each for each in self.start_logs if (each.host, each.port) in ((None, None), here)), None)

    def host_memory_of(self, server: EngineProcess | None) -> EngineHostMemory | None:
        """Return a server's host memory against its limit, None where it has none or that is not known."""
        here = None if server is None else (server.host, server.port)
        return next((each for each in self.host_memory if (each.host, each.port) == here), None)

    def model_at(self, *paths: str | None, overrides: str = "") -> ModelFiles | None:
        """Return the files of the first of these paths that was read with these overrides of its config."""
        known = {files.path: files for files in self.models if files.overrides == overrides}
        return next((known[path] for path in paths if path in known), None)

    @cached_property
    def _servers_by_port(self) -> Mapping[int | None, Sequence[EngineProcess]]:
        """Those that have an address."""
        found: dict[int | None, list[EngineProcess]] = defaultdict(list)
        for server in self.servers:
            if server.address is not None:
                found[server.port].append(server)
        return found

    @cached_property
    def _processes_by_gpu(self) -> Mapping[str, tuple[GpuProcess, ...]]:
        found: dict[str, list[GpuProcess]] = defaultdict(list)
        for process in self.gpu_processes:
            found[process.uuid].append(process)
        return {uuid: tuple(processes) for uuid, processes in found.items()}


def with_named_gpus(snapshot: Snapshot) -> Snapshot:
    """Return a snapshot in which servers have the workers that run on the GPUs named for them.

    For workers that are no descendants of their server, as Ray's are not. A process that belongs to a server in sight
    stays its own, and on a GPU that is named for two servers nothing can be told.
    """
    named = [
        (snapshot.servers.index(server), [gpu.uuid for gpu in snapshot.gpus if {gpu.gpu, gpu.uuid} & set(target.gpus)])
        for target in snapshot.targets
        if target.gpus and (server := snapshot.server_at(target.url)) is not None
    ]
    if not named or snapshot.visible_pids is None:
        return snapshot
    times = Counter(uuid for _, uuids in named for uuid in uuids)
    owned = {pid for server in snapshot.servers for pid in server.pids}
    servers, found = list(snapshot.servers), set(snapshot.visible_pids)
    for position, uuids in named:
        workers = {
            process.pid
            for process in snapshot.gpu_processes
            if process.uuid in uuids and times[process.uuid] == 1 and process.pid not in owned
        }
        servers[position] = replace(servers[position], pids=servers[position].pids | workers)
        found |= workers
    return replace(snapshot, servers=tuple(servers), visible_pids=frozenset(found))


def gpus_of_rank(gpus: tuple[Gpu, ...], position: int, ranks: int) -> tuple[Gpu, ...]:
    """Return the share of a server's GPUs that its engine number ``position`` of ``ranks`` runs on.

    vLLM hands out devices in order of rank; where the count does not divide, no share can be told.
    """
    if ranks == 1:
        return gpus
    if not gpus or len(gpus) % ranks:
        return ()
    share = len(gpus) // ranks
    return gpus[position * share : (position + 1) * share]


@lru_cache(maxsize=1024)
def _host_and_port(url: str) -> tuple[str | None, int | None]:
    parts = urlsplit(url)
    try:
        return parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return parts.hostname, None


def _gpu_order(gpu: Gpu) -> tuple[int, ...]:
    return tuple(int(part) for part in gpu.gpu.split(":"))


def process_bytes(processes: Iterable[GpuProcess]) -> int | None:
    """Return the memory of these processes together, None where the driver does not say of one of them."""
    total = 0
    for process in processes:
        if process.used_bytes is None:
            return None
        total += process.used_bytes
    return total
