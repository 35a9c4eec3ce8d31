"""The start-up log of a running server: from a file named by hand, its standard output, its container, the journal.

A log is a help, never a need: one that is absent or may not be read is a normal state, told with its reason.
"""

import os
import re
import selectors
import stat
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from advisor.readings import EngineProcess, EngineStartLog
from advisor.start_log import parse_start_log
from exporter.errors import SourceUnavailable, UsageError
from exporter.sources.kernel import short_text

MOST_BYTES = 32 * 1024**2
"""Of a larger log the first and the last half of this are read: a start stands at either end more often than not."""
_JOURNAL_SECONDS = 5.0
_START_SECONDS = 3600
"""Journal entries later than this after the start are not asked for: the longest start-ups take minutes."""
_MOST_PIDS = 64

Run = Callable[[Sequence[str], float, int], bytes]
"""Runs a program: (its words, the seconds it may take, the most bytes to read) to what it wrote."""

_UNIT = re.compile(r"/([^/\s]+\.service)(?=/|$)", re.MULTILINE)
_CONTAINER_ID = re.compile(r"[0-9a-f]{64}")


def run_bounded(argv: Sequence[str], deadline_seconds: float, most_bytes: int) -> bytes:
    """Run a program and return what it writes, up to a time and a size; then it is ended.

    Raises:
        SourceUnavailable: There is no such program, or it cannot be started.
    """
    end = time.monotonic() + deadline_seconds
    try:
        process = subprocess.Popen(  # noqa: S603 - the words are ours: journalctl and numbers
            list(argv), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    except OSError as error:
        raise SourceUnavailable("not_run", f"{argv[0]}: {error.strerror}") from error
    assert process.stdout is not None
    written = bytearray()
    with process, selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while len(written) < most_bytes and selector.select(max(0.0, end - time.monotonic())):
            piece = os.read(process.stdout.fileno(), min(65_536, most_bytes - len(written)))
            if not piece:
                break
            written += piece
        process.kill()
    return bytes(written)


class StartLogSource:
    """Reads the start-up logs of the servers that are wanted."""

    name = "start_log"

    def __init__(self, *, given: EngineStartLog | None = None, root: Path = Path("/"), run: Run = run_bounded) -> None:
        """Take a log that was given by hand, if any; the file system's root; and what runs ``journalctl``."""
        self._given = given
        self._root = root
        self._run = run
        self._wanted: tuple[EngineProcess, ...] = ()

    def want(self, servers: Iterable[EngineProcess]) -> None:
        """Name the servers whose logs to read."""
        self._wanted = tuple(servers)

    def read(self) -> tuple[EngineStartLog, ...]:
        """Return what was found of each wanted server's log; one given by hand stands for all of them."""
        if self._given is not None:
            return (self._given,)
        return tuple(self._look(server) for server in self._wanted)

    def close(self) -> None:
        """Nothing is held open."""

    def _look(self, server: EngineProcess) -> EngineStartLog:
        tried: list[str] = []
        for where, text in self._texts(server):
            log = parse_start_log(text.splitlines()) if text else None
            if log is not None:
                return EngineStartLog(host=server.host, port=server.port, log=log, found=where)
            tried.append(where)
        reason = f"no start-up log is readable: no vLLM start in {' or '.join(tried)}"
        return EngineStartLog(host=server.host, port=server.port, log=None, found=reason)

    def _texts(self, server: EngineProcess) -> Iterator[tuple[str, str | None]]:
        """Yield (where, what stands there) from the surest place to the least; what cannot be read is None."""
        pids = sorted(server.pids)[:_MOST_PIDS]
        files = (self._root / "proc" / str(pid) / "fd" / number for pid in pids for number in ("1", "2"))
        written = next((file for file in files if _is_regular(file)), None)
        if written is not None:
            yield "the file that its output goes to", _ends_of(written)
        group = _control_groups(pids, self._root)
        for container in dict.fromkeys(_CONTAINER_ID.findall(group)):
            docker = self._root / "var/lib/docker/containers" / container / f"{container}-json.log"
            kept = (docker, *_matching(self._root / "var/log/containers", f"*-{container}.log"))
            found = next((file for file in kept if _is_regular(file)), None)
            yield "its container's log", _ends_of(found) if found else None
        match = _unit_match(group)
        if match is not None:
            yield f"the journal of {match.partition('=')[2]}", self._journal(server, [match])
        else:
            yield "the journal of its processes", self._journal(server, [f"_PID={pid}" for pid in pids])

    def _journal(self, server: EngineProcess, matches: Sequence[str]) -> str | None:
        began = int(server.started_at_seconds)
        span = ("--since", f"@{began - 60}", "--until", f"@{began + _START_SECONDS}")
        argv = ("journalctl", "--no-pager", "--quiet", "--output", "cat", *span, *matches)
        try:
            return self._run(argv, _JOURNAL_SECONDS, MOST_BYTES).decode(errors="replace")
        except SourceUnavailable:
            return None


def read_start_log(file: Path) -> EngineStartLog:
    """Read a log named by hand.

    Raises:
        UsageError: It cannot be read.
    """
    text = _ends_of(file)
    if text is None:
        raise UsageError(f"--log: {file} cannot be read")
    log = parse_start_log(text.splitlines())
    found = str(file) if log is not None else f"no vLLM start in {file}"
    return EngineStartLog(host=None, port=None, log=log, found=found)


def service_of(pids: Iterable[int], root: Path = Path("/")) -> tuple[str, bool] | None:
    """Return the systemd service that these processes belong to, and whether it is one of a user's own manager.

    Args:
        pids: Process ids.
        root: Where ``proc`` lies.

    Returns:
        None outside any service.
    """
    match = _unit_match(_control_groups(sorted(pids)[:_MOST_PIDS], root))
    field, _, unit = (match or "").partition("=")
    return (unit, "USER" in field) if unit else None


def _control_groups(pids: Iterable[int], root: Path) -> str:
    return "".join(short_text(root / "proc" / str(pid) / "cgroup") for pid in pids)


def _unit_match(control_group: str) -> str | None:
    """Return the journal's match for the service that a control group belongs to, None outside any.

    Services of a user's own manager stand below the system's ``user@1000.service``.
    """
    units = [unit for unit in _UNIT.findall(control_group) if unit not in ("docker.service", "containerd.service")]
    own = [unit for unit in units if not unit.startswith("user@")]
    if not own:
        return None
    return f"_SYSTEMD_USER_UNIT={own[0]}" if len(own) < len(units) else f"_SYSTEMD_UNIT={own[0]}"


def _ends_of(file: Path) -> str | None:
    try:
        with file.open("rb") as opened:
            size = os.fstat(opened.fileno()).st_size
            content = opened.read(MOST_BYTES if size <= MOST_BYTES else MOST_BYTES // 2)
            if size > MOST_BYTES:
                opened.seek(-(MOST_BYTES // 2), os.SEEK_END)
                content += b"\n" + opened.read(MOST_BYTES // 2)
    except OSError:
        return None
    return content.decode(errors="replace")


def _is_regular(file: Path) -> bool:
    try:
        return stat.S_ISREG(file.stat().st_mode)
    except OSError:
        return False


def _matching(directory: Path, pattern: str) -> list[Path]:
    try:
        return sorted(directory.glob(pattern))
    except OSError:
        return []
