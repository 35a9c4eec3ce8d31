"""``vllm-headroom check``: tells every problem of a file before the daemon meets it."""

from pathlib import Path

import click

from exporter.config import load
from exporter.errors import UsageError


@click.command(name="check")
@click.option("--config", "config_file", type=click.Path(path_type=Path), metavar="FILE")
@click.option("--web.config.file", "web_config_file", type=click.Path(path_type=Path), metavar="FILE")
def command(config_file: Path | None, web_config_file: Path | None) -> None:
    """Check configuration files: every problem with its path and what would be right; exit status 2 if any."""
    if config_file is None and web_config_file is None:
        raise click.UsageError("--config FILE, --web.config.file FILE or both")
    problems = []
    for check, path in ((_config, config_file), (_web_config, web_config_file)):
        if path is None:
            continue
        try:
            click.echo(f"{path}: good ({check(path)})")
        except UsageError as error:
            problems.append(str(error))
    if problems:
        raise UsageError("\n".join(problems))


def _config(path: Path) -> str:
    config = load(path, {})
    watched = f"{len(config.engines)} engines" if config.engines else "engines discovered on this host"
    return f"{watched}, every {config.poll_interval:g} s, on {config.listen_address}"


def _web_config(path: Path) -> str:
    from exporter.web.live import check_web_config

    config, context = check_web_config(path)
    spoken = "plain HTTP" if context is None else "TLS"
    clients = ""
    if config.tls_server_config is not None and config.tls_server_config.client_auth_type != "NoClientCert":
        clients = f", client certificates ({config.tls_server_config.client_auth_type})"
    return f"{spoken}{clients}, {len(config.basic_auth_users) or 'no'} users"
