"""The command line: one file, one command, imported only when it is called."""

import difflib
import errno
import importlib
import io
import os
import signal
import sys

import click

from exporter.errors import HeadroomError

COMMANDS = {
    "serve": "Watch this host's GPUs and vLLM servers and serve what follows.",
    "demo": "The same over a made-up host: two GPUs, one engine, a busy day in minutes.",
    "plan": "Say what a vLLM command line will hold on a GPU, and whether it starts.",
    "explain": "Say why each vLLM process holds the GPU memory that it holds.",
    "advise": "Say what max-num-seqs and the other memory flags should be, from the load seen.",
    "simulate": "Say what other settings would do with a trace or a made-up load, without a server.",
    "bench": "Load a running server and say what its users got, and where its knee is.",
    "top": "Show GPUs, engines, headroom and risk live in the terminal.",
    "check": "Check configuration files, rules and dashboards.",
    "dashboards": "Write out dashboards, rules and alerts for Grafana, Prometheus and Alertmanager.",
    "systemd": "Write the unit files of a service.",
    "capture": "Save what the sources say, for a bug report or a test.",
}
"""Every command with its one-line help, so that --help imports none of them."""
_DAEMONS = frozenset({"serve", "demo"})
"""Those that wait for signals themselves (`exporter.cli.serve.hold_signals`)."""
_OUTPUT_IS_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"exporter.cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and (near := difflib.get_close_matches(args[0], COMMANDS, n=1)):
            ctx.fail(f"No such command '{args[0]}'. Did you mean '{near[0]}'?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="vllm-headroom", prog_name="vllm-headroom")
def cli() -> None:
    """How much more fits on a vLLM server, and how likely it is to run out of memory."""


def main() -> None:
    """Run the command; what the operator can mend is told in a line and exits with 2, without a traceback."""
    if _DAEMONS.intersection(sys.argv[1:2]):
        # To import them takes a second. A reload that is asked for meanwhile waits, and does not end the process.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # of GBK or Latin-1: a question mark where it has no such sign
    try:
        cli(prog_name="vllm-headroom")
    except HeadroomError as error:
        print(f"vllm-headroom: {error}".replace("\n", "\nvllm-headroom: "), file=sys.stderr)  # noqa: T201
        sys.exit(2)
    except OSError as error:
        if error.errno not in _OUTPUT_IS_FULL:
            raise
        print(f"vllm-headroom: {error.filename or 'standard output'}: {error.strerror}", file=sys.stderr)  # noqa: T201
        os._exit(2)  # what is still to be written would fail again, and say so in a status of its own
