"""Options that several commands share."""

import math
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import click

from exporter.errors import UsageError
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


class Amount(click.FloatRange):
    """A number within bounds, both of them: click lets NaN through, and infinity where one end is open."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail("nan is not a number.", param, ctx)
        return number


LONGEST_SECONDS = 7 * 86_400.0
"""That a command waits for anything."""
FACTOR = Amount(1e-6, 1e6)
"""What a rate or a factor of time can be on a command line."""

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


def refuse_own(command: click.Command, command_line: Sequence[str], *, but: Collection[str] = ()) -> None:
    """Refuse options of a command among vLLM's, where they would go unheard.

    Args:
        command: Whose options.
        command_line: vLLM's.
        but: Those of the command that vLLM has, too.

    Raises:
        UsageError: There are some.
    """
    own = {name for option in command.params if isinstance(option, click.Option) for name in option.opts}
    given = {word.partition("=")[0] for word in command_line}
    if ours := sorted((own - set(but)) & given):
        raise UsageError(
            f"{', '.join(ours)}: an option of {command.name}, not of vLLM: it belongs before the --, "
            "vLLM's flags after it"
        )
