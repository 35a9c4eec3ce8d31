"""The fixed identities of the dashboards, so that alerts, tables and bookmarks find them."""

from enum import StrEnum


class Board(StrEnum):
    """One dashboard; the value is its uid."""

    FLEET = "vllm-headroom-fleet"
    SERVER = "vllm-headroom-server"
    ENGINE = "vllm-headroom-engine"
    ADVICE = "vllm-headroom-advice"

    @property
    def file_name(self) -> str:
        """Name of its JSON file."""
        return self.value.removeprefix("vllm-headroom-") + ".json"


TAG = "vllm-headroom"
