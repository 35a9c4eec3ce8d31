"""``vllm-headroom dashboards``: dashboards, rules and alerts, written out to be loaded elsewhere."""

from pathlib import Path

import click

from exporter.config import load
from exporter.errors import UsageError


@click.group(name="dashboards")
def command() -> None:
    """Dashboards, recording rules and alerts for Grafana, Prometheus and Alertmanager."""


@command.command(name="export")
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option("--grafana-alerts", is_flag=True, help="Also write the alerts as Grafana-managed ones.")
@click.option("--datasource-uid", metavar="UID", help="Grafana's Prometheus data source, for --grafana-alerts.")
@click.option("--grafana-url", default="", metavar="URL", help="Address of Grafana, for links from alerts.")
@click.option(
    "--runbook-url",
    default="runbooks",
    metavar="URL",
    help="Where you put the runbook pages, for links from alerts; default: the folder that is written beside them.",
)
@click.option("--dashboards-at", metavar="PATH", help="Where Grafana finds the dashboards' files on its own disk.")
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The daemon's configuration: its policy sets the alerts' thresholds.",
)
def export(
    directory: Path,
    grafana_alerts: bool,
    datasource_uid: str | None,
    grafana_url: str,
    runbook_url: str,
    dashboards_at: str | None,
    config_file: Path | None,
) -> None:
    """Write dashboards, rules, alerts and their runbooks below DIRECTORY.

    Each folder is named after what loads it; docs/dashboards.md says how.
    """
    # The command line is where all packages meet; nothing else of the daemon reaches up.
    from dashboards import files  # noqa: TID251 - see above
    from dashboards.rules.prometheus import Places  # noqa: TID251 - see above

    if grafana_alerts and not datasource_uid:
        raise UsageError("--grafana-alerts needs --datasource-uid: Grafana's alerts name their data source")
    policy = load(config_file, {}).thresholds()
    places = Places(grafana_url=grafana_url, runbook_url=runbook_url)
    written = {
        **files.generated_dashboards(),
        **files.runbooks(),
        **files.rule_files(policy, places, dashboards_at=dashboards_at or files.DASHBOARDS_AT),
    }
    if grafana_alerts and datasource_uid:
        written |= files.grafana_alerts(policy, places, datasource_uid=datasource_uid)
    try:
        files.write(written, directory)
    except OSError as error:
        raise UsageError(f"{error.filename or directory}: {error.strerror}") from error
    for name in sorted(written):
        click.echo(directory / name)
