"""Every file that users load somewhere, by its path; dashboards as they were generated, rules built anew."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from advisor.policy import Policy
from dashboards.links import Board
from dashboards.rules import alertmanager, autoscaling, grafana
from dashboards.rules.catalogue import all_alerts
from dashboards.rules.prometheus import Places, alert_groups, as_yaml, recording_groups
from dashboards.rules.recording import RECORDINGS

GENERATED = Path(__file__).resolve().parent / "generated"
_INSTALLED_RUNBOOKS = GENERATED.with_name("runbooks")
RUNBOOKS = _INSTALLED_RUNBOOKS if _INSTALLED_RUNBOOKS.is_dir() else GENERATED.parents[1] / "docs" / "runbooks"
"""A page for each alert: inside the package in an installation, among the documents in a checkout."""
DASHBOARDS_AT = "/var/lib/grafana/dashboards/vllm-headroom"
"""Where the provider file expects the dashboards unless told otherwise."""


def rule_files(policy: Policy, places: Places, *, dashboards_at: str = DASHBOARDS_AT) -> dict[str, str]:
    """Return the text of every file but the dashboards and Grafana's alerts, by path."""
    return {
        "prometheus/vllm-headroom.alerts.yaml": as_yaml(alert_groups(all_alerts(policy), places)),
        "prometheus/vllm-headroom.recordings.yaml": as_yaml(recording_groups(RECORDINGS)),
        "alertmanager/vllm-headroom.inhibit.yaml": as_yaml(alertmanager.inhibition()),
        "grafana/provisioning/dashboards/vllm-headroom.yaml": as_yaml(grafana.dashboard_provider(dashboards_at)),
        "autoscaling/keda.yaml": as_yaml(autoscaling.keda()),
        "autoscaling/prometheus-adapter.yaml": as_yaml(autoscaling.prometheus_adapter()),
        "autoscaling/hpa.yaml": as_yaml(autoscaling.horizontal_pod_autoscaler()),
    }


def generated_dashboards() -> dict[str, str]:
    """Return the text of every dashboard as it is committed and packaged, by path."""
    return {
        f"grafana/dashboards/{board.file_name}": (GENERATED / "grafana" / "dashboards" / board.file_name).read_text(
            encoding="utf-8"
        )
        for board in Board
    }


def runbooks() -> dict[str, str]:
    """Return the text of the page of every alert, and of the list of them, by path."""
    return {f"runbooks/{page.name}": page.read_text(encoding="utf-8") for page in sorted(RUNBOOKS.glob("*.md"))}


def grafana_alerts(policy: Policy, places: Places, *, datasource_uid: str) -> dict[str, str]:
    """Return the text of the file with Grafana-managed alerts, by path."""
    panel_ids = {
        (Board(content["uid"]), panel["title"]): panel["id"]
        for content in map(json.loads, generated_dashboards().values())
        for panel in panels_of(content)
    }
    content = grafana.managed_alerts(all_alerts(policy), places, datasource_uid=datasource_uid, panel_ids=panel_ids)
    return {"grafana/provisioning/alerting/vllm-headroom.yaml": as_yaml(content)}


def panels_of(dashboard: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield every panel of a dashboard, those in collapsed rows included and the rows themselves not."""
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            yield from panel.get("panels", ())
        else:
            yield panel


def write(files: Mapping[str, str], directory: Path) -> None:
    """Write files below a directory, which is made if it is not there."""
    for name, content in files.items():
        file = directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")
