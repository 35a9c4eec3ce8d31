"""todo."""

from exporter.config import Config


def run_fleet(config: Config, *, as_json: bool) -> int:
    """Todo"""
    return 0
