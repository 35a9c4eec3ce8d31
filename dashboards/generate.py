"""Writes everything under ``dashboards/generated``: ``python -m dashboards.generate``."""

import json
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards.grafana import advice, engine, fleet, server
from dashboards.links import Board

GENERATED = Path(__file__).resolve().parent / "generated"

BOARDS = {
    Board.FLEET: fleet.build,
    Board.SERVER: server.build,
    Board.ENGINE: engine.build,
    Board.ADVICE: advice.build,
}


def dashboard_files() -> dict[str, str]:
    """Return the text of each dashboard by its path below ``generated``."""
    return {
        f"grafana/{board.file_name}": json.dumps(
            json.loads(JSONEncoder().encode(build())), indent=2, sort_keys=True, ensure_ascii=False
        )
        + "\n"
        for board, build in BOARDS.items()
    }


def main() -> None:
    """Write the files."""
    for name, content in dashboard_files().items():
        file = GENERATED / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
