"""``vllm-headroom serve``: the daemon."""

import logging
import signal
import threading
from pathlib import Path
from typing import Any

import click
import psutil
import pynvml

from exporter import logs
from exporter.cli.options import web_options
from exporter.config import Config, load
from exporter.errors import SourceError
from exporter.service import Service, World
from exporter.sources.nvml import NvmlSource
from exporter.sources.process import ProcessSource
from exporter.web.app import build_app
from exporter.web.server import HttpServer, listen, shown_url

log = logging.getLogger(__name__)


@click.command(name="serve")
@click.option("--engine", "engine_urls", multiple=True, metavar="URL", help="A vLLM server to watch; repeatable.")
@click.option("--poll-interval", type=float, metavar="SECONDS", help="Time between two readings; default 5.")
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="STATE_DIRECTORY",
    metavar="DIR",
    help="Where to keep what must survive a restart; nothing is kept without one.",
)
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
    config_file: Path | None,
    demo_if_alone: bool,
    listen_address: str | None,
    log_level: str,
    log_format: str,
) -> None:
    """Watch this host's GPUs and vLLM servers and serve metrics, a page and an API."""
    logs.configure(log_level, log_format)
    given: dict[str, Any] = {
        "engines": [{"url": url} for url in engine_urls] or None,
        "poll_interval": poll_interval,
        "state_dir": state_dir,
        "listen_address": listen_address,
    }
    config = load(config_file, {key: value for key, value in given.items() if value is not None})
    world = World(nvml=pynvml, processes=psutil)
    if demo_if_alone and not config.engines and nothing_to_watch(world):
        from exporter.cli.demo import run_demo

        log.info("no GPU driver and no vLLM server here: showing a demo on a made-up host")
        run_demo(config)
    else:
        run(config, world)


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


def run(config: Config, world: World) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        UsageError: The address cannot be bound, or a key cannot be read.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    listening = listen(config.listen_address)
    service = Service(config, world)
    service.start()
    server = HttpServer(build_app(service), listening)
    server.start()
    log.info("serving %s on %s", "a demo" if service.mode == "demo" else "this host", shown_url(listening))
    stop.wait()
    log.info("stopping")
    server.stop()
    service.stop()
