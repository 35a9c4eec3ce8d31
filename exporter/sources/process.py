"""Running vLLM servers, from the process table.

vLLM's workers are descendants of the process whose command line holds the flags, so one look at the tree maps NVML's
process ids to engines. Command lines and environments can hold keys: what is kept of them is `EngineFlags`, nothing
else, and nothing of it is ever logged.
"""

import logging
import math
import os
import pwd
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from advisor.flags import EngineFlags, config_path, is_server_command, parse_flags
from advisor.readings import EngineProcess
from exporter.errors import SourceUnavailable
from exporter.sources import bounded
from exporter.sources.kernel import short_text

log = logging.getLogger(__name__)

MOST_SERVERS = 128
"""More than any host runs: sixteen GPUs split by MIG into seven each hold 112. Every one takes memory, and a thread
when it hangs."""
_DEFAULT_PORT = 8000
_ANY_ADDRESS = frozenset({None, "", "0.0.0.0", "::"})  # noqa: S104 - compared with, not bound to
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_MOST_CONFIG_BYTES = 64 * 1024
"""Sixteen times what all of vLLM's flags take. A mebibyte of YAML takes half a minute and 383 MiB to read."""
_MOST_CONFIG_VALUES = 10_000
_MOST_ROUTES = 4 * 1024**2
"""Characters of a routing table: some ten thousand routes."""
_LOOK_AGAIN_SECONDS = 30.0
"""Between two looks at every process: a start script that turns into vLLM by exec keeps its process id, and a process
whose parent ended gets another. In between only new processes are looked at: a GPU server has thousands."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Known:
    """A server process whose command line was read."""

    process: Any
    """Equal to what the table tells of the same process later, and not to that of another with the same id."""
    started_at_seconds: float
    """Unix time. Asked for once: what the machine's start is read from takes long where processors are many."""
    argv_hash: int
    """Tells a later change of the command line (exec, a new process title) without keeping its words."""
    flags: EngineFlags
    model_path: str | None
    host: str
    """Where this daemon reaches it; empty where it does not."""


class ProcessSource:
    """Finds vLLM API servers and their descendants."""

    name = "process"

    def __init__(
        self,
        processes: Any,
        *,
        root: Path = Path("/"),
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the process table (the ``psutil`` module or a stand-in) and the file system's root."""
        self._processes = processes
        self._root = root
        self.visible_pids: frozenset[int] | None = None
        """Every process that the last look saw."""
        self._steady = steady
        self._others: set[int] = set()
        self._parents: dict[int, int | None] = {}
        self._servers: dict[int, _Known] = {}
        self._looked_at_seconds = -math.inf
        self._looking_again = True
        self._has_told = False

    def read(self) -> tuple[EngineProcess, ...]:
        """Look for servers that came or went.

        Raises:
            SourceUnavailable: The process table itself cannot be read.
        """
        try:
            pids = set(self._processes.pids())
        except OSError as error:
            self.visible_pids = None
            raise SourceUnavailable("no_process_table", str(error)) from error
        self.visible_pids = frozenset(pids)
        now = self._steady()
        self._looking_again = now - self._looked_at_seconds >= _LOOK_AGAIN_SECONDS
        if self._looking_again:
            self._looked_at_seconds = now
            self._others.clear()
            self._parents.clear()
        self._others &= pids
        looked_at = sorted(pids - self._others)
        self._servers = {pid: known for pid in looked_at if (known := self._look(pid)) is not None}
        self._others.update(pid for pid in looked_at if pid not in self._servers)
        if not self._servers:
            return ()
        children = self._children(pids)
        found = _without_children([_server(pid, known, children) for pid, known in self._servers.items()])
        return found if len(found) <= MOST_SERVERS else self._oldest(found)

    def close(self) -> None:
        """Nothing is held open."""

    def _oldest(self, found: tuple[EngineProcess, ...]) -> tuple[EngineProcess, ...]:
        """Whoever may start a process may start a thousand that look like servers: those that came first stay."""
        if not self._has_told:
            self._has_told = True
            log.warning("%d processes look like vLLM servers: the %d oldest are watched", len(found), MOST_SERVERS)
        return tuple(sorted(found, key=lambda each: each.started_at_seconds)[:MOST_SERVERS])

    def _look(self, pid: int) -> _Known | None:
        table = self._processes
        try:
            process = table.Process(pid)
            known = self._servers.get(pid)
            if known is not None and known.process != process:
                known = None
            if known is None or self._looking_again:
                argv = process.cmdline()
                if not is_server_command(argv):
                    return None
                if known is None or known.argv_hash != hash(tuple(argv)):
                    return self._read_server(process, argv)
        except (table.NoSuchProcess, table.AccessDenied, table.ZombieProcess, OSError):
            return None
        return known

    def _children(self, pids: set[int]) -> Mapping[int, list[int]]:
        """Return the children of each process that has some; only of a process not seen before is the parent asked."""
        self._parents = {pid: parent for pid, parent in self._parents.items() if pid in pids}
        for pid in pids - self._parents.keys():
            self._parents[pid] = self._parent(pid)
        children: dict[int, list[int]] = {}
        for pid, parent in self._parents.items():
            if parent is not None:
                children.setdefault(parent, []).append(pid)
        return children

    def _parent(self, pid: int) -> int | None:
        try:
            return int(self._processes.Process(pid).ppid())
        except (self._processes.Error, OSError):
            return None

    def _read_server(self, process: Any, argv: list[str]) -> _Known:
        started = process.create_time()
        directory = self._tolerant(process.cwd, "/")
        environment = self._tolerant(process.environ, {})
        own_root = self._root / "proc" / str(process.pid) / "root"
        path = config_path(argv)
        config = self._read_config(directory, own_root, path) if path else None
        flags = parse_flags(argv, config=config, environment=environment)
        if path and config is None:
            problem = f"--config: {path} cannot be read, so flags set there are not known"
            flags = parse_flags(argv, environment=environment, problems=(problem,))
        return _Known(
            process=process,
            started_at_seconds=started,
            argv_hash=hash(tuple(argv)),
            flags=flags,
            host=self._reached_at(process.pid, flags.host),
            model_path=self._find_model(flags, directory, own_root, self._homes(process, environment)),
        )

    def _tolerant(self, call: Callable[[], Any], fallback: Any) -> Any:
        """Another user's directory and environment are not ours to read: do without."""
        try:
            return call()
        except (self._processes.Error, OSError):
            return fallback

    def _read_config(self, directory: str, own_root: Path, path: str) -> Mapping[str, Any] | None:
        for base in (self._root, own_root):
            try:
                file = base / os.path.join(directory, path).lstrip("/")  # noqa: PTH118
                content = parse_server_config(bounded.content(file, _MOST_CONFIG_BYTES).decode())
            except (OSError, ValueError):
                continue
            if content is not None:
                return content
        return None

    def _reached_at(self, pid: int, host: str | None) -> str:
        """Return the address at which this daemon reaches a server that listens on ``host``; empty for nowhere.

        A container with a network of its own answers at its own address, on its own port: neither at loopback, where
        another server may be, nor at a port that the container's engine publishes, which is not in the process table.
        One that copies this host's addresses (pasta) passes loopback on.
        """
        if host not in _ANY_ADDRESS | _LOOPBACK:
            return str(host)
        here = "127.0.0.1" if host in _ANY_ADDRESS or host == "localhost" else str(host)
        folders = [self._root / "proc" / each / "net" for each in ("self", str(pid))]
        networks = [_network(folder) for folder in folders]
        if None not in networks and len(set(networks)) == 1:
            return here
        tables = (short_text(folder / "fib_trie", most_characters=_MOST_ROUTES) for folder in folders)
        own, its = (parse_addresses(table) for table in tables)
        elsewhere = [address for address in its if address not in own]
        is_apart = None not in networks or (own and elsewhere)
        if not is_apart or set(own) & set(its) - _LOOPBACK:
            return here
        return elsewhere[0] if elsewhere and host in _ANY_ADDRESS else ""

    def _homes(self, process: Any, environment: Mapping[str, str]) -> list[Path]:
        """Where a server's user keeps the hub's cache: by its environment if that may be read, by the user's entry.

        This daemon's own user may have no home at all: what counts is that of the user who runs vLLM.
        """
        homes = [Path(environment["HOME"])] if environment.get("HOME") else []
        with suppress(self._processes.Error, OSError, KeyError, AttributeError):
            homes.append(Path(pwd.getpwuid(process.uids().effective).pw_dir))
        return [*homes, Path("/root")]

    def _find_model(self, flags: EngineFlags, directory: str, own_root: Path, homes: list[Path]) -> str | None:
        """Return where this daemon can open the model: as named, in the container's root, or in the hub cache."""
        if flags.model is None:
            return None
        for base in (self._root, own_root):
            named = base / os.path.join(directory, flags.model).lstrip("/")  # noqa: PTH118
            if _has_config(named):
                return str(named)
            for hub in _hub_caches(flags, homes):
                snapshots = base / str(hub).lstrip("/") / f"models--{flags.model.replace('/', '--')}" / "snapshots"
                try:
                    newest = sorted(snapshots.iterdir(), key=lambda each: each.stat().st_mtime, reverse=True)
                except OSError:
                    continue
                for snapshot in newest:
                    if _has_config(snapshot):
                        return str(snapshot)
        return None


def parse_server_config(text: str) -> Mapping[str, Any] | None:
    """Return the flags in the YAML file that ``vllm serve --config`` names, None where it holds none."""
    import yaml  # few servers are started from a file

    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) and _is_small(content) else None


def _is_small(content: Any) -> bool:
    """Tell whether the values are few once every alias is written out: nine lines of YAML can stand for billions."""
    left, count = [content], 0
    while left:
        count += 1
        if count > _MOST_CONFIG_VALUES:
            return False
        each = left.pop()
        if isinstance(each, dict):
            left += (*each.keys(), *each.values())
        elif isinstance(each, list | tuple | set):
            left += each
    return True


def _server(pid: int, known: _Known, children: Mapping[int, list[int]]) -> EngineProcess:
    pids = {pid}
    unvisited = [pid]
    while unvisited:
        new = [child for child in children.get(unvisited.pop(), ()) if child not in pids]
        pids.update(new)
        unvisited += new
    return EngineProcess(
        host=known.host,
        port=known.flags.port or _DEFAULT_PORT,
        secure=known.flags.ssl_certfile is not None,
        flags=known.flags,
        pids=frozenset(pids),
        started_at_seconds=known.started_at_seconds,
        model_path=known.model_path,
    )


def _hub_caches(flags: EngineFlags, homes: list[Path]) -> list[Path]:
    named = flags.environment.get("HF_HUB_CACHE")
    hub = flags.environment.get("HF_HOME")
    return [
        *([Path(flags.download_dir)] if flags.download_dir else []),
        *([Path(named)] if named else []),
        *([Path(hub) / "hub"] if hub else []),
        *(home / ".cache" / "huggingface" / "hub" for home in homes),
    ]


def _network(folder: Path) -> int | None:
    """Return what tells a network namespace from another: the kernel numbers the files of each anew.

    Its own name for one, ``/proc/<pid>/ns/net``, may only be read by the process's user.
    """
    try:
        return (folder / "dev").stat().st_ino
    except OSError:
        return None


def parse_addresses(routes: str) -> list[str]:
    """Return the IPv4 addresses of the network that a process lives in, from the kernel's routing table of it.

    ``routes`` is ``/proc/<pid>/net/fib_trie`` (proc_pid_net(5)), or as much of it as was read.
    """
    lines = routes.splitlines()
    found = (
        address.partition("|-- ")[2]
        for address, kind in pairwise(lines)
        if "|-- " in address and kind.split()[:3] == ["/32", "host", "LOCAL"]
    )
    return list(dict.fromkeys(found))


def _has_config(directory: Path) -> bool:
    try:
        return (directory / "config.json").is_file()
    except OSError:
        return False


def _without_children(servers: list[EngineProcess]) -> tuple[EngineProcess, ...]:
    """Drop a server that descends from another: ``vllm serve`` wrapped by a launcher is one server, not two."""
    return tuple(server for server in servers if not any(server.pids < other.pids for other in servers))
