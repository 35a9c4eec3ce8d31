"""Options that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from exporter.logs import FORMATS, LEVELS

_WEB = (
    click.option(
        "--web.listen-address", "listen_address", metavar="[HOST]:PORT", help="Where to serve; default :9738."
    ),
    click.option(
        "--web.config.file",
        "web_config_file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="TLS, client certificates, basic auth: the file that Prometheus exporters share.",
    ),
    click.option(
        "--web.systemd-socket", "systemd_socket", is_flag=True, help="Serve on the sockets that systemd listens on."
    ),
    click.option("--log.level", "log_level", type=click.Choice(list(LEVELS)), default="info", show_default=True),
    click.option("--log.format", "log_format", type=click.Choice(FORMATS), default="logfmt", show_default=True),
)

prometheus_option = click.option(
    "--prometheus",
    "prometheus_url",
    metavar="URL",
    help="A Prometheus, Thanos, Mimir or VictoriaMetrics that keeps the past; credentials: --config or ~/.netrc.",
)


def web_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of everything that serves."""
    for option in reversed(_WEB):
        command = option(command)
    return command
