"""``vllm-headroom check``: tells every problem of a file before the daemon meets it."""

from pathlib import Path

import click

from exporter.config import load


@click.command(name="check")
@click.option("--config", "config_file", type=click.Path(path_type=Path), required=True, metavar="FILE")
def command(config_file: Path) -> None:
    """Check a configuration file: every problem with its path and what would be right; exit status 2 if any."""
    config = load(config_file, {})
    watched = f"{len(config.engines)} engines" if config.engines else "engines discovered on this host"
    click.echo(f"{config_file}: good ({watched}, every {config.poll_interval:g} s, on {config.listen_address})")
