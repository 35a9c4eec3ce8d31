"""What became of the run before this one: a mark in the state directory that only an orderly end takes away.

A driver's library that crashes takes the whole process with it, and no exception tells of it. Python's faulthandler
then still writes into the mark which signal it was and what every thread was doing, the driver's call among it; a kill
(out of memory, a pulled plug) leaves the mark as it was. Either way the next start finds it and says what happened.
"""

import faulthandler
import fcntl
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

log = logging.getLogger(__name__)

MARK_FILE = "running"
KEPT_FILE = "running.before"
_MOST_BYTES = 256 * 1024

_BEGAN = re.compile(r"^began (\S+) as process \d+$", re.MULTILINE)
_SIGNAL = re.compile(r"^Fatal Python error: (.+)$", re.MULTILINE)
_THREAD = re.compile(r"^(Current thread|Thread) .*:\n((?:  File .*\n?)*)", re.MULTILINE)
_FRAME = re.compile(r'  File "(.*)", line \d+ in (\S+)')


@dataclass(frozen=True, kw_only=True, slots=True)
class BadEnd:
    """How a run ended that did not end in order."""

    began: str
    signal: str | None
    """In faulthandler's words, such as ``Segmentation fault``; None for an end that left no word."""
    call: str | None
    """The innermost function of the thread at fault, with its file's name."""
    under_way: tuple[str, ...] = ()
    """The same of every other thread that was reading a source: after an abort by the watchdog, what hung."""

    def __str__(self) -> str:
        """Say it in a sentence."""
        began = f"the run that began {self.began}"
        if self.signal is None:
            return f"{began} did not end in order and left no word: killed (out of memory?) or the machine went down"
        where = f" in {self.call}" if self.call else ""
        beside = f"; reads under way: {', '.join(self.under_way)}" if self.under_way else ""
        return f"{began} ended by: {self.signal}{where}{beside}"


def parse_mark(text: str) -> BadEnd | None:
    """Return how the run ended that left this mark behind, None for one that ended in order.

    The format of what follows the first line is that of faulthandler: the signal, then the threads, each with its
    innermost call first; the one at fault is called the current one (Python 3.11 to 3.14).
    """
    began = _BEGAN.search(text)
    if began is None:
        return None
    ended = _SIGNAL.search(text)
    if ended is None:
        return BadEnd(began=began[1], signal=None, call=None)
    call, under_way = None, []
    for thread in _THREAD.finditer(text):
        frames = [(Path(file), function) for file, function in _FRAME.findall(thread[2])]
        if not frames:
            continue
        innermost = f"{frames[0][1]} ({frames[0][0].name})"
        if thread[1] == "Current thread":
            call = innermost
        elif any(file.parts[-3:-1] == ("exporter", "sources") for file, _ in frames):
            under_way.append(innermost)
    return BadEnd(began=began[1], signal=ended[1], call=call, under_way=tuple(under_way))


@contextmanager
def marked(state_dir: Path | None) -> Iterator[None]:
    """Leave a mark while inside; say first what became of a run that left its own.

    Without a directory, or one that cannot be written, a crash is told on standard error only.
    """
    mark = _open(state_dir) if state_dir else None
    if state_dir is None or mark is None:
        faulthandler.enable()
        yield
        return
    _tell(mark, state_dir / KEPT_FILE)
    began = f"began {datetime.now(UTC).isoformat(timespec='seconds')} as process {os.getpid()}\n"
    with suppress(OSError):  # a full disk, of which the state files tell
        os.ftruncate(mark, 0)
        os.pwrite(mark, began.encode(), 0)
    os.lseek(mark, 0, os.SEEK_END)
    faulthandler.enable(mark)
    try:
        yield
    finally:
        faulthandler.enable()  # what still happens on the way out goes to standard error
        with suppress(OSError):
            os.ftruncate(mark, 0)
        os.close(mark)


def _open(state_dir: Path) -> int | None:
    """Return the mark's file descriptor, locked; None where it cannot be had."""
    path = state_dir / MARK_FILE
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        mark = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        log.warning("%s: %s; a crash will be told on standard error only", path, error.strerror)
        return None
    try:
        fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        log.warning("%s is held by another process: two daemons overwrite each other's state", path)
        os.close(mark)
        return None
    return mark


def _tell(mark: int, kept: Path) -> None:
    content = os.pread(mark, _MOST_BYTES, 0)
    end = parse_mark(content.decode("utf-8", errors="replace"))
    if end is None:
        return
    aside = ""
    if end.signal is not None:
        with suppress(OSError):
            kept.write_bytes(content)
            aside = f"; what every thread was doing is in {kept}"
    log.error("%s%s", end, aside)
