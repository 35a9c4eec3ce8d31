"""``vllm-headroom demo``: the real program over a made-up host."""

from pathlib import Path

import click

from exporter import logs
from exporter.cli.options import web_options
from exporter.cli.serve import Serving, hold_signals, run
from exporter.config import Config, load
from exporter.demo.world import build_demo

_HURRIED = {"advice_least_busy_seconds": 60.0, "advice_least_requests": 50.0}
"""A day of eight minutes has no ten for advice to wait."""


@click.command(name="demo")
@web_options
def command(
    listen_address: str | None,
    web_config_file: Path | None,
    systemd_socket: bool,
    log_level: str,
    log_format: str,
) -> None:
    """Show everything on a made-up host: two GPUs, one vLLM server, a rush, a leak, all within eight minutes."""
    hold_signals()
    logs.configure(log_level, log_format)
    config = load(None, {"listen_address": listen_address})
    run_demo(config, Serving(web_config_file=web_config_file, systemd_socket=systemd_socket))


def run_demo(config: Config, serving: Serving) -> None:
    """Serve the demo until stopped, reading every second: its day takes eight minutes."""
    demo = build_demo()
    try:
        hurried = {"poll_interval": 1.0, "policy": {**_HURRIED, **config.policy}}
        run(config.model_copy(update=hurried), demo.world, serving)
    finally:
        demo.stop()
