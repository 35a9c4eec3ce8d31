"""Writes everything under ``dashboards/generated``: ``python -m dashboards.generate``."""

import json
from typing import Any

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from advisor.policy import Policy
from dashboards.files import GENERATED, rule_files, write
from dashboards.grafana import advice, engine, fleet, server
from dashboards.links import Board
from dashboards.rules.prometheus import Places

BOARDS = {
    Board.FLEET: fleet.build,
    Board.SERVER: server.build,
    Board.ENGINE: engine.build,
    Board.ADVICE: advice.build,
}


def dashboard_files() -> dict[str, str]:
    """Return the text of each dashboard by its path below ``generated``."""
    return {
        f"grafana/dashboards/{board.file_name}": json.dumps(_as_grafana_saves(build()), indent=2, sort_keys=True) + "\n"
        for board, build in BOARDS.items()
    }


def _as_grafana_saves(built: Dashboard) -> dict[str, Any]:
    """Drop the defaults that the SDK writes where Grafana's own schema has no such key."""
    content: dict[str, Any] = json.loads(JSONEncoder().encode(built))
    for variable in content["templating"]["list"]:
        for key in ("auto", "auto_min", "auto_count"):
            variable.pop(key, None)
    for panel in content["panels"]:
        for each in (panel, *panel.get("panels", ())):
            if each["type"] == "table":
                each["options"].pop("footer", None)
    return content


def main() -> None:
    """Write the files."""
    write({**dashboard_files(), **rule_files(Policy(), Places())}, GENERATED)


if __name__ == "__main__":
    main()
