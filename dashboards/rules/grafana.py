"""The same alerts as Grafana-managed ones, in the format of Grafana's file provisioning.

Each rule keeps Prometheus' meaning, in which every sample that the expression returns is an alert: a math node turns
any value, NaN and infinity included, into 1, and a threshold node asks for more than 0. Grafana's own import of
Prometheus rules does the same (``pkg/services/ngalert/prom/convert.go``). Provisioning keeps annotations and queries
as they are written, from 9 up to at least 12 (``pkg/services/provisioning/alerting/rules_types.go``), so a ``$`` in
a template is not doubled here.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from dashboards.links import Board
from dashboards.rules.declarations import Alert, by_group
from dashboards.rules.prometheus import Places, annotations

FOLDER = "vLLM headroom"
_QUERY, _ANY, _CONDITION = "query", "any_value", "condition"


def managed_alerts(
    alerts: Sequence[Alert],
    places: Places,
    *,
    datasource_uid: str,
    panel_ids: Mapping[tuple[Board, str], int],
) -> dict[str, Any]:
    """Return the content of a file for ``provisioning/alerting``.

    Args:
        alerts: What to provision.
        places: Where runbooks and dashboards are.
        datasource_uid: The Prometheus data source that holds our metrics; Grafana knows no variable here.
        panel_ids: Id of each panel by dashboard and title.
    """
    return {
        "apiVersion": 1,
        "groups": [
            {
                "orgId": 1,
                "name": group,
                "folder": FOLDER,
                "interval": "1m",
                "rules": [
                    _rule(alert, places, datasource_uid, panel_ids[alert.board, alert.panel]) for alert in members
                ],
            }
            for group, members in by_group(alerts).items()
        ],
    }


def _rule(alert: Alert, places: Places, datasource_uid: str, panel_id: int) -> dict[str, Any]:
    return {
        "uid": uid(alert),
        "title": f"{alert.name} ({alert.severity})",
        "condition": _CONDITION,
        "data": [
            {
                "refId": _QUERY,
                "relativeTimeRange": {"from": 600, "to": 0},
                "datasourceUid": datasource_uid,
                "model": {
                    "refId": _QUERY,
                    "datasource": {"type": "prometheus", "uid": datasource_uid},
                    "expr": alert.expr,
                    "instant": True,
                    "range": False,
                },
            },
            _expression(
                _ANY, type="math", expression=f"is_number(${_QUERY}) || is_nan(${_QUERY}) || is_inf(${_QUERY})"
            ),
            _expression(
                _CONDITION,
                type="threshold",
                expression=_ANY,
                conditions=[{"evaluator": {"type": "gt", "params": [0]}}],
            ),
        ],
        "dashboardUid": alert.board.value,
        "panelId": panel_id,
        # A symptom that no series shows is no symptom; that nothing is shown at all has an alert of its own.
        "noDataState": "OK",
        "execErrState": "Error",
        "for": alert.hold,
        "missing_series_evals_to_resolve": 1,
        "annotations": {name: _template(text) for name, text in annotations(alert, places).items()},
        "labels": {"severity": str(alert.severity)},
        "isPaused": False,
    }


def _expression(ref_id: str, **model: Any) -> dict[str, Any]:
    return {
        "refId": ref_id,
        "relativeTimeRange": {"from": 0, "to": 0},
        "datasourceUid": "__expr__",
        "model": {"refId": ref_id, "datasource": {"type": "__expr__", "uid": "__expr__"}, **model},
    }


def _template(text: str) -> str:
    """Grafana's ``$value`` is a text about all nodes; the number is that of the query node."""
    return re.sub(r"\$value\b", f"$values.{_QUERY}.Value", text)


def uid(alert: Alert) -> str:
    """Return a fixed uid of at most 40 characters."""
    return "headroom-" + hashlib.sha256(f"{alert.name} {alert.severity}".encode()).hexdigest()[:16]


def dashboard_provider(path: str) -> dict[str, Any]:
    """Return the content of a file for ``provisioning/dashboards``."""
    return {
        "apiVersion": 1,
        "providers": [
            {
                "name": "vllm-headroom",
                "orgId": 1,
                "folder": FOLDER,
                "type": "file",
                "allowUiUpdates": False,
                "updateIntervalSeconds": 60,
                "options": {"path": path},
            }
        ],
    }
