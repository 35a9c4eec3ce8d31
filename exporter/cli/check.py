"""``vllm-headroom check``: tells every problem of a file before the daemon, Prometheus or Grafana meets it."""

import dataclasses
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from exporter.config import load
from exporter.errors import CredentialMissing, UsageError, require_all


@click.command(name="check")
@click.option("--config", "config_file", type=click.Path(path_type=Path), metavar="FILE", help="A configuration file.")
@click.option(
    "--web.config.file",
    "web_config_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A web configuration file (TLS, users).",
)
@click.option(
    "--rules",
    "rule_files",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="A Prometheus rule file; repeatable.",
)
@click.option(
    "--dashboard",
    "dashboard_files",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="A Grafana dashboard; repeatable.",
)
@click.option(
    "--against",
    "pages",
    multiple=True,
    metavar="URL",
    help="A live page that the metrics must be on: a vLLM server, this daemon, any exporter, or Prometheus' "
    "/api/v1/label/__name__/values; repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="Print remarks on rules and dashboards as JSON.")
@click.pass_context
def command(
    context: click.Context,
    config_file: Path | None,
    web_config_file: Path | None,
    rule_files: tuple[Path, ...],
    dashboard_files: tuple[Path, ...],
    pages: tuple[str, ...],
    as_json: bool,
) -> None:
    """Check configuration files: every problem with its path. Check that the metrics in rules and dashboards exist.

    Metrics that vLLM renamed are found by name, with the new name. Exit status 1 if a metric is wrong, 2 if a file
    cannot be used.
    """
    if config_file is None and web_config_file is None and not rule_files and not dashboard_files:
        raise click.UsageError("nothing to check: give --config, --web.config.file, --rules or --dashboard")
    checks = ((_config, config_file), (_web_config, web_config_file))
    require_all(partial(_tell, check, path) for check, path in checks if path is not None)
    if (rule_files or dashboard_files) and _metrics_are_wrong(rule_files, dashboard_files, pages, as_json=as_json):
        context.exit(1)


def _metrics_are_wrong(
    rule_files: tuple[Path, ...], dashboard_files: tuple[Path, ...], pages: tuple[str, ...], *, as_json: bool
) -> bool:
    from exporter.lint import Known, dashboard_queries, names_on_page, rule_queries

    queries = [query for file in dashboard_files for query in dashboard_queries(file)]
    recorded: set[str] = set()
    for file in rule_files:
        found, names = rule_queries(file)
        queries += found
        recorded |= names
    live = frozenset(name for url in pages for name in names_on_page(url)) if pages else None
    remarks = Known(recorded=frozenset(recorded), live=live).remarks(queries)
    wrong = [remark for remark in remarks if remark.wrong]
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(remark) for remark in remarks], indent=2))
        return bool(wrong)
    for remark in remarks:
        instead = f"; use {remark.replacement}" if remark.replacement else ""
        note = "" if remark.wrong else "note: "
        click.echo(f"{note}{remark.where}: {f'{remark.metric}: ' if remark.metric else ''}{remark.message}{instead}")
    expressions = _counted(len(queries), "expression")
    click.echo(
        f"{expressions}: {len(wrong)} wrong, {len(remarks) - len(wrong)} not to be told"
        if remarks
        else f"{expressions}: good"
    )
    return bool(wrong)


def _tell(check: Callable[[Path], str], path: Path) -> None:
    click.echo(f"{path}: good ({check(path)})")


def _config(path: Path) -> str:
    from exporter import engines
    from exporter.sources import prometheus

    config = load(path, {})
    openings: list[partial[Any]] = [partial(engines.open_connection, engine) for engine in config.engines]
    if config.prometheus is not None:
        openings.append(partial(prometheus.open_session, config.prometheus))
    require_all(partial(_open, path, opening) for opening in openings)
    watched = _counted(len(config.engines), "engine") if config.engines else "engines discovered on this host"
    return f"{watched}, every {config.poll_interval:g} s, on {config.listen_address}"


def _open(path: Path, opening: Callable[[], Any]) -> None:
    try:
        opening().close()
    except CredentialMissing as error:  # no problem of the file: what systemd hands over is there with the service
        click.echo(f"note: {error}: without it the daemon does not start")
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def _web_config(path: Path) -> str:
    from exporter.web.live import check_web_config

    config, context = check_web_config(path)
    spoken = "plain HTTP" if context is None else "TLS"
    clients = ""
    if config.tls_server_config is not None and config.tls_server_config.client_auth_type != "NoClientCert":
        clients = f", client certificates ({config.tls_server_config.client_auth_type})"
    return f"{spoken}{clients}, {_counted(len(config.basic_auth_users), 'user')}"


def _counted(number: int, word: str) -> str:
    return f"{number or 'no'} {word}{'' if number == 1 else 's'}"
