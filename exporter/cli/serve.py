"""``vllm-headroom serve``: the daemon."""

import ctypes
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import psutil
import pynvml

from exporter import logs
from exporter.checked_yaml import require_readable_again
from exporter.cli.options import prometheus_option, web_options
from exporter.config import Config, load
from exporter.errors import SourceError, UsageError
from exporter.last_run import marked
from exporter.notify import Notifier
from exporter.service import Service, World
from exporter.sources.nvml import NvmlSource
from exporter.sources.process import ProcessSource
from exporter.web.app import build_app
from exporter.web.server import HttpServer, listen, passed_sockets, shown_url

if TYPE_CHECKING:
    from exporter.web.live import LiveWebConfig

log = logging.getLogger(__name__)

RESTART_STATUS = 75
"""Exit status that asks whoever supervises the daemon for a fresh process (EX_TEMPFAIL of sysexits.h)."""
_OWN_WISH = signal.SIGUSR1
"""How the daemon wakes its own main thread; from anybody else it means nothing."""
_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, _OWN_WISH})
_BEAT_SECONDS = 2.0
_SWITCH_SECONDS = 0.0002
"""How long a thread that judges or reads keeps the interpreter from one that answers a scrape, at each of the latter's
ten system calls. With Python's own 5 ms such a scrape would wait for the end of the judgement."""
_STARTED_SECONDS = 6.0
"""By then everything was read once."""
_M_ARENA_MAX = -8
"""mallopt's parameter (malloc.h of glibc)."""
_SWEEP_SECONDS = 60.0
"""Errors and NVML calls leave cycles behind, which Python itself looks for only when a quarter more is held."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Serving:
    """How a command serves what it shows."""

    web_config_file: Path | None = None
    systemd_socket: bool = False
    reload: Callable[[], Config] | None = None
    """Reads the configuration again; None where there is none to read."""


@click.command(name="serve")
@click.option("--engine", "engine_urls", multiple=True, metavar="URL", help="A vLLM server to watch; repeatable.")
@click.option("--poll-interval", type=float, metavar="SECONDS", help="Time between two readings; default 5.")
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="STATE_DIRECTORY",
    show_envvar=True,
    metavar="DIR",
    help="Where to keep what must survive a restart; nothing is kept without one.",
)
@prometheus_option
@click.option("--config", "config_file", type=click.Path(path_type=Path), metavar="FILE", help="YAML file; see docs.")
@click.option(
    "--demo-if-alone",
    is_flag=True,
    help="With no GPU driver and no vLLM server on this host, show the demo instead of an empty page.",
)
@web_options
def command(
    engine_urls: tuple[str, ...],
    poll_interval: float | None,
    state_dir: Path | None,
    prometheus_url: str | None,
    config_file: Path | None,
    demo_if_alone: bool,
    listen_address: str | None,
    web_config_file: Path | None,
    systemd_socket: bool,
    log_level: str,
    log_format: str,
) -> None:
    """Watch this host's GPUs and vLLM servers and serve metrics, a page and an API."""
    hold_signals()
    keep_few_heaps()
    sys.setswitchinterval(_SWITCH_SECONDS)
    logs.configure(log_level, log_format)
    given: dict[str, Any] = {
        "engines": [{"url": url} for url in engine_urls] or None,
        "poll_interval": poll_interval,
        "state_dir": state_dir,
        "listen_address": listen_address,
        "prometheus": {"url": prometheus_url} if prometheus_url else None,
    }
    config = load(config_file, given)

    def load_again() -> Config:
        if config_file is not None:
            require_readable_again(config_file)
        return load(config_file, given)

    serving = Serving(web_config_file=web_config_file, systemd_socket=systemd_socket, reload=load_again)
    world = World(nvml=pynvml, processes=psutil)
    if demo_if_alone and not config.engines and nothing_to_watch(world):
        from exporter.cli.demo import run_demo

        log.info("no GPU driver and no vLLM server here: showing a demo on a made-up host")
        run_demo(config, serving)
    else:
        run(config, world, serving)


def hold_signals() -> None:
    """Block the signals that `run` waits for, in this thread and those to come.

    They are waited for rather than handled, because a handler that runs just before a wait begins would be slept over.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def keep_few_heaps() -> None:
    """Keep glibc from making a heap for every thread, each of which would hold some hundred KiB for nothing.

    As MALLOC_ARENA_MAX in the environment does; the threads seldom run at the same time, so none waits for another.
    """
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def nothing_to_watch(world: World) -> bool:
    """Tell whether this host has neither a GPU driver nor a vLLM server."""
    nvml = NvmlSource(world.nvml)
    try:
        nvml.read()
    except SourceError:
        return not ProcessSource(world.processes).read()
    finally:
        nvml.close()
    return False


def run(config: Config, world: World, serving: Serving) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP reads the files again. `hold_signals` was called before any thread began.

    Raises:
        UsageError: The address cannot be bound, a key cannot be read, the web configuration is not usable.
    """
    with marked(config.state_dir):
        restarting = _run(config, world, serving)
    if restarting:
        sys.exit(RESTART_STATUS)


def _run(config: Config, world: World, serving: Serving) -> bool:
    """Serve until the end; return whether it is the daemon's own wish for a fresh process."""
    notifier = Notifier()
    web = _web_config(serving.web_config_file)
    sockets = passed_sockets() if serving.systemd_socket else (listen(config.listen_address),)
    service = Service(config, world, web_is_current=lambda: web is None or web.is_current)
    service.start()
    server = HttpServer(build_app(service), sockets, web=web)
    server.start()
    address = shown_url(sockets[0], secure=web is not None and web.context is not None)
    log.info("serving %s on %s", "a demo" if service.mode == "demo" else "this host", address)
    beat = _Heartbeat(service, server, notifier, wants_restart=lambda: os.kill(os.getpid(), _OWN_WISH))
    service.every(beat.seconds, "heartbeat", beat)
    gc.freeze()  # what was imported is no garbage: looking for some takes a few milliseconds from here on
    service.every(_SWEEP_SECONDS, "sweep", _sweep, after_seconds=_STARTED_SECONDS)

    def reload() -> None:
        notifier.reloading()
        _reload(config, service, web, serving)
        notifier.ready(service.summary())

    restarting = _wait(reload, service)
    if restarting:
        log.error("the driver was replaced under this process: ending with status %d for a fresh start", RESTART_STATUS)
    log.info("stopping")
    notifier.stopping()
    server.stop()
    service.stop()
    return restarting


def _sweep() -> None:
    gc.collect()
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)  # what the start, or a large page, took for a moment is given back


def _wait(reload: Callable[[], None], service: Service) -> bool:
    """Serve signals until the end comes; return whether it is the daemon's own wish for a fresh process."""
    while True:
        number = signal.sigwait(_SIGNALS)
        if number == signal.SIGHUP:
            reload()
        elif number != _OWN_WISH:
            return False
        elif service.needs_restart:
            return True


def _web_config(path: Path | None) -> "LiveWebConfig | None":
    if path is None:
        return None
    from exporter.web.live import LiveWebConfig

    return LiveWebConfig(path)


class _Heartbeat:
    """Runs in the collection loop: tells the service manager that both the loop and the HTTP server turn."""

    def __init__(
        self, service: Service, server: HttpServer, notifier: Notifier, *, wants_restart: Callable[[], None]
    ) -> None:
        self._service = service
        self._server = server
        self._notifier = notifier
        self._wants_restart = wants_restart
        self._is_ready = False
        within = notifier.watchdog_seconds
        self.seconds = min(_BEAT_SECONDS, within / 4) if within else _BEAT_SECONDS

    def __call__(self) -> None:
        service = self._service
        if service.needs_restart:
            self._wants_restart()
        if not self._server.is_answering() or not service.is_alive:
            return
        if not self._is_ready:
            self._is_ready = True
            self._notifier.ready(service.summary())
        self._notifier.alive(service.summary())


def _reload(started_with: Config, service: Service, web: "LiveWebConfig | None", serving: Serving) -> None:
    """Read every file again. One that is not usable leaves all that it says as it was."""
    if web is not None:
        web.refresh(even_if_unchanged=True)
    if serving.reload is None:
        return
    try:
        config = serving.reload()
        service.reconfigure(config)
    except UsageError as error:
        service.note_reload(successful=False)
        log.error("configuration not reloaded, the old one stays: %s", error)  # noqa: TRY400 - a message, not a trace
        return
    except Exception:
        service.note_reload(successful=False)
        log.exception("configuration not reloaded in an unforeseen way")
        return
    service.note_reload(successful=True)
    log.info("configuration reloaded")
    for key in ("listen_address", "state_dir", "prometheus"):
        if getattr(config, key) != getattr(started_with, key):
            log.warning("%s has changed: that needs a restart, %s stays", key, getattr(started_with, key))
