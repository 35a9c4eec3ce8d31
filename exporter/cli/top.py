"""``vllm-headroom top``: GPUs, engines, headroom and risk, live in a terminal."""

import json
import logging
import os
import select
import signal
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any, Protocol, Self
from urllib.parse import urlsplit

import click
import psutil
import pynvml
import requests
from rich.console import Console, Group
from rich.live import Live

from exporter import words
from exporter.cli.top_view import SORTS, Canvas, View, draw
from exporter.config import checked_address, load
from exporter.errors import UsageError
from exporter.service import Service, World
from exporter.unread import UNREAD, why_unread
from exporter.web.status import status

_PIPE_WIDTH = 80
_MOST_BYTES = 16 * 1024**2
_TIMEOUT_SECONDS = 5.0
_TICK_SECONDS = 0.25
"""How soon a resized window is drawn again."""


@click.command(name="top")
@click.option("--url", metavar="URL", help="A daemon elsewhere, such as http://gpu-server:9738; default: this host.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.2, max=300.0),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two looks.",
)
def command(url: str | None, interval: float) -> None:
    """Show GPUs, engines, headroom, risk and findings live: what is wrong comes first.

    Keys: q quits, p pauses, s sorts, the arrows scroll. Without a terminal it prints once; the exit status is then 1
    where something is wrong or the daemon does not answer. One that wants a password gets it from ~/.netrc.
    """
    logging.disable()  # what fails stands on the screen, which a log line would tear
    feed: Feed = Remote(checked(url), interval) if url else Local(interval)
    console = Console(highlight=False, emoji=False)
    try:
        if sys.stdout.isatty():
            live(feed, console, View(source=_shown(url), interval_seconds=interval))
        else:
            sys.exit(print_once(feed, View(source=_shown(url), interval_seconds=interval)))
    finally:
        feed.close()


class Feed(Protocol):
    """Where statuses come from."""

    def start(self) -> None:
        """Begin reading in the background."""

    def latest(self) -> tuple[dict[str, Any] | None, str | None]:
        """Return the last status that was read, and why there is no newer one; at once."""

    def once(self) -> tuple[dict[str, Any] | None, str | None]:
        """Read once, instead of `start`."""

    def close(self) -> None:
        """Stop reading."""


class Local:
    """Reads this host's sources itself; no daemon is needed."""

    def __init__(self, interval_seconds: float) -> None:
        """Take the time between two readings."""
        config = load(None, {"poll_interval": interval_seconds})
        self._service = Service(config, World(nvml=pynvml, processes=psutil))

    def start(self) -> None:
        """Begin reading in the background."""
        self._service.start()

    def latest(self) -> tuple[dict[str, Any] | None, str | None]:
        """Return the present status."""
        return status(self._service), None

    def once(self) -> tuple[dict[str, Any] | None, str | None]:
        """Read every source once."""
        self._service.once()
        return status(self._service), None

    def close(self) -> None:
        """Stop reading."""
        self._service.stop()


class Remote:
    """Asks a daemon for its ``/api/v1/status``."""

    def __init__(self, url: str, interval_seconds: float) -> None:
        """Take the daemon's address and the time between two questions."""
        self._url = f"{url}/api/v1/status"
        self._interval_seconds = interval_seconds
        self._stop = threading.Event()
        self._latest: tuple[dict[str, Any] | None, str | None] = (None, None)
        self._thread = threading.Thread(target=self._follow, name="remote", daemon=True)

    def start(self) -> None:
        """Begin asking in the background."""
        self._thread.start()

    def latest(self) -> tuple[dict[str, Any] | None, str | None]:
        """Return the last answer, and why there is no newer one."""
        return self._latest

    def once(self) -> tuple[dict[str, Any] | None, str | None]:
        """Ask once."""
        with requests.Session() as session:
            return self._ask(session)

    def close(self) -> None:
        """Stop asking; an answer that is under way is not waited for."""
        self._stop.set()

    def _follow(self) -> None:
        with requests.Session() as session:
            while not self._stop.is_set():
                answer, trouble = self._ask(session)
                self._latest = (answer or self._latest[0], trouble)
                self._stop.wait(self._interval_seconds)

    def _ask(self, session: requests.Session) -> tuple[dict[str, Any] | None, str | None]:
        try:
            with session.get(self._url, timeout=_TIMEOUT_SECONDS, stream=True) as response:
                if response.status_code != 200:
                    return None, f"{self._url} answers {response.status_code}"
                content = response.raw.read(_MOST_BYTES + 1, decode_content=True)
        except UNREAD as error:
            return None, f"{self._url} cannot be read ({why_unread(error)})"
        if len(content) > _MOST_BYTES:
            return None, f"{self._url} answers absurdly much"
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError):
            return None, f"{self._url} does not answer in JSON"
        if not is_understood(answer):
            return None, f"{self._url} is not the status of a vllm-headroom of this version"
        return answer, None


def is_understood(answer: Any) -> bool:
    """Tell whether an answer can be drawn: what comes from elsewhere must not end the view."""
    if not isinstance(answer, dict):
        return False
    try:
        draw(answer, View(source="", interval_seconds=1.0), Canvas(width=_PIPE_WIDTH, height=None, colour=False))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError):
        return False
    return True


def checked(url: str) -> str:
    """Return a daemon's address.

    Raises:
        UsageError: It is none.
    """
    try:
        return checked_address(url, such_as="http://gpu-server:9738", credentials="~/.netrc")
    except ValueError as error:
        raise UsageError(f"--url: {error}") from error


def _shown(url: str | None) -> str:
    return urlsplit(url).netloc if url else "this host"


def print_once(feed: Feed, view: View) -> int:
    """Print one look at most 80 columns wide, and return the exit status."""
    found, trouble = feed.once()
    console = Console(width=_PIPE_WIDTH, highlight=False, emoji=False, color_system=None)
    lines = draw(found, replace(view, trouble=trouble), Canvas(width=_PIPE_WIDTH, height=None, colour=False))
    for line in lines:
        console.print(line, soft_wrap=True)
    return int(found is None or words.headline(found)[0] in ("warning", "critical"))


def live(feed: Feed, console: Console, view: View) -> None:
    """Show what the feed says until somebody quits; the terminal is left as it was found, whatever happens."""
    feed.start()
    with _ended_by_signals():
        while True:
            with Keys() as keys, Live(console=console, screen=True, auto_refresh=False, transient=True) as shown:
                view, is_over = _follow(feed, console, keys, shown, view)
            if is_over:
                return
            os.kill(os.getpid(), signal.SIGSTOP)  # the terminal is as it was: now the shell may have it


def _follow(feed: Feed, console: Console, keys: "Keys", shown: Live, view: View) -> tuple[View, bool]:
    """Draw until a key ends it (True) or suspends it (False)."""
    status_shown: dict[str, Any] | None = None
    drawn: object = None
    while True:
        if not view.paused or status_shown is None:
            status_shown, trouble = feed.latest()
            view = replace(view, trouble=trouble)
        canvas = Canvas(width=console.width, height=console.height, colour=console.color_system is not None)
        if drawn != (status_shown, view, canvas):
            shown.update(Group(*draw(status_shown, view, canvas)), refresh=True)
            drawn = (status_shown, view, canvas)
        key = keys.wait(_TICK_SECONDS)
        if key in ("q", "Q", "\x03"):
            return view, True
        if key == "\x1a":
            return view, False
        view = _pressed(key, view)


def _pressed(key: str, view: View) -> View:
    if key in ("p", " "):
        return replace(view, paused=not view.paused)
    if key == "s":
        return replace(view, sort=(view.sort + 1) % len(SORTS), offset=0)
    if key in ("\x1b[B", "j"):
        return replace(view, offset=view.offset + 1)
    if key in ("\x1b[A", "k"):
        return replace(view, offset=max(0, view.offset - 1))
    return view


class Keys:
    """The keyboard, key by key and unseen; without one, only time passes."""

    def __enter__(self) -> Self:
        """Take the keyboard."""
        self._descriptor = sys.stdin.fileno() if sys.stdin.isatty() else None
        if self._descriptor is not None:
            self._before = termios.tcgetattr(self._descriptor)
            tty.setcbreak(self._descriptor)
            # Ctrl-C and Ctrl-Z come as keys, so that the screen is put back first.
            attributes = termios.tcgetattr(self._descriptor)
            attributes[3] &= ~termios.ISIG
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, attributes)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give it back as it was."""
        if self._descriptor is not None:
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._before)

    def wait(self, seconds: float) -> str:
        """Return the key pressed within this time, an empty text for none; a closed terminal quits."""
        if self._descriptor is None:
            select.select([], [], [], seconds)
            return ""
        readable, _, _ = select.select([self._descriptor], [], [], seconds)
        if not readable:
            return ""
        return os.read(self._descriptor, 16).decode(errors="replace") or "q"


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM, SIGHUP and SIGINT end the view in order, so that the terminal is put back."""

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
