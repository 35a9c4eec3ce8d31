"""How near the engines are to the host memory that their cgroups may use, where a limit is set.

At the limit the kernel ends a process of the cgroup: a container or a service with too little host memory loses a
worker, and with it the engine, whatever the GPU has left. A cgroup's limit binds all below it, so every cgroup from
the process up to the mount is looked at and the tightest one told. No limit, another namespace and a file that may not
be read are all the same: nothing is told.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path, PurePosixPath

from advisor.readings import EngineHostMemory, EngineProcess
from exporter.sources.kernel import figure, short_text

_MOST_PIDS = 64
_UNLIMITED_BYTES = 1 << 60
"""Version 1 spells "no limit" as the largest multiple of a page."""
_FILES = {
    2: ("memory.max", "memory.current", "memory.events"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.oom_control"),
}
"""Where each version keeps the limit, what is in use, and how often the kernel ended a process."""
_GIVEN_BACK = {
    2: ("active_file", "inactive_file", "slab_reclaimable"),
    1: ("total_active_file", "total_inactive_file"),
}
"""What the kernel takes back before it ends a process: cached files, of which a server that loads weights has many.
Shared memory is not among them (Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/memory.rst)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mount:
    """Where a memory controller's hierarchy is to be seen."""

    version: int
    root: str
    """Which of its cgroups stands at the mount point: not the topmost one in a container."""
    point: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Use:
    """What one cgroup with a limit says of itself."""

    limit_bytes: int
    used_bytes: int
    oom_kills: int | None


class CgroupSource:
    """Reads the cgroups of the servers that are wanted."""

    name = "cgroup"

    def __init__(self, *, root: Path = Path("/")) -> None:
        """Take the file system's root."""
        self._root = root
        self._wanted: tuple[EngineProcess, ...] = ()

    def want(self, servers: Iterable[EngineProcess]) -> None:
        """Name the servers to look at."""
        self._wanted = tuple(servers)

    def read(self) -> tuple[EngineHostMemory, ...]:
        """Return what is known of each wanted server; those without a limit, or out of sight, are left out."""
        if not self._wanted:
            return ()
        mounts = parse_mounts(short_text(self._root / "proc/self/mountinfo"))
        use_of = cache(self._use)  # servers share the cgroups above theirs: each is looked at once a read
        found = ((server, self._tightest(server, mounts, use_of)) for server in self._wanted)
        return tuple(
            EngineHostMemory(
                host=server.host,
                port=server.port,
                limit_bytes=use.limit_bytes,
                used_bytes=use.used_bytes,
                oom_kills=use.oom_kills,
            )
            for server, use in found
            if use is not None
        )

    def close(self) -> None:
        """Nothing is held open."""

    def _tightest(
        self, server: EngineProcess, mounts: tuple[Mount, ...], use_of: Callable[[int, str], Use | None]
    ) -> Use | None:
        """Workers may live in cgroups of their own: the tightest of all decides."""
        memberships = {short_text(self._root / f"proc/{pid}/cgroup") for pid in sorted(server.pids)[:_MOST_PIDS]}
        directories = {
            directory
            for text in memberships
            for version, path in parse_membership(text)
            for mount in mounts
            if mount.version == version
            for directory in directories_of(path, mount)
        }
        known = [use for each in sorted(directories) if (use := use_of(*each)) is not None]
        return max(known, key=lambda use: use.used_bytes / use.limit_bytes, default=None)

    def _use(self, version: int, directory: str) -> Use | None:
        files = self._root / directory.lstrip("/")
        limit, current, events = _FILES[version]
        limit_bytes = figure(short_text(files / limit))
        if limit_bytes is None or not 0 < limit_bytes < _UNLIMITED_BYTES:
            return None  # as most are: nothing else of it is read
        current_bytes = figure(short_text(files / current))
        if current_bytes is None:
            return None
        parts = parse_pairs(short_text(files / "memory.stat"))
        given_back = sum(parts.get(name, 0) for name in _GIVEN_BACK[version])
        return Use(
            limit_bytes=limit_bytes,
            used_bytes=max(0, current_bytes - given_back),
            oom_kills=parse_pairs(short_text(files / events)).get("oom_kill"),
        )


@lru_cache(maxsize=1)
def parse_mounts(mountinfo: str) -> tuple[Mount, ...]:
    """Return where memory controllers are mounted, from ``/proc/self/mountinfo`` (proc_pid_mountinfo(5)).

    Of several mounts of one hierarchy the first counts: the others show the same.
    """
    found: dict[int, Mount] = {}
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        words, kinds = before.split(), after.split()
        if len(words) < 5 or len(kinds) < 3:
            continue
        if kinds[0] == "cgroup2":
            version = 2
        elif kinds[0] == "cgroup" and "memory" in kinds[2].split(","):
            version = 1
        else:
            continue
        found.setdefault(version, Mount(version=version, root=words[3], point=words[4]))
    return tuple(found.values())


@lru_cache(maxsize=256)
def parse_membership(text: str) -> tuple[tuple[int, str], ...]:
    """Return the cgroups that limit a process's memory, from ``/proc/<pid>/cgroup``, as (version, path).

    Where version 1 has the memory controller, version 2 beside it has none: it is named then, and limits nothing.
    """
    found = []
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            found.append((2, path))
        elif "memory" in controllers.split(","):
            found.append((1, path))
    return tuple(found)


@lru_cache(maxsize=256)
def directories_of(path: str, mount: Mount) -> tuple[tuple[int, str], ...]:
    """Return the directory of a cgroup and of all above it that the mount shows, as (version, directory).

    A path with ``..`` in it, or beside the mount's root, belongs to another namespace: it is not to be seen from here.
    """
    cgroup, root = PurePosixPath(path), PurePosixPath(mount.root)
    if ".." in cgroup.parts or not cgroup.is_relative_to(root):
        return ()
    below = cgroup.relative_to(root)
    return tuple((mount.version, str(PurePosixPath(mount.point) / each)) for each in (below, *below.parents))


def parse_pairs(text: str) -> dict[str, int]:
    """Return the figures of a file of ``name figure`` lines, as memory.stat and memory.events are.

    >>> parse_pairs("oom_kill 1")
    {'oom_kill': 1}
    """
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: number for pair in pairs if len(pair) == 2 and (number := figure(pair[1])) is not None}
