"""Facts about the daemon itself. They are served whatever else fails."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from advisor.facts import Fact, described, identity, level


@dataclass(frozen=True, kw_only=True, slots=True)
class Build(Fact):
    """Which program this is. ``headroom_build_info`` by Prometheus' convention."""

    subject: ClassVar[str] = "build"

    version: str | None = described("version of vllm-headroom")
    python_version: str | None = described("version of Python")
    mode: str | None = described("'serve' on a real machine, 'demo' over a stand-in world")


@dataclass(frozen=True, kw_only=True, slots=True)
class Collector(Fact):
    """How one source's last read went."""

    subject: ClassVar[str] = "collector"

    collector: str = identity("Name of the source: nvml, vllm, process, model, advice.")
    success: int | None = level("1 when the last read of this source succeeded in full, 0 when anything failed.")
    duration_seconds: float | None = level("How long the last finished read took.")
    last_success_timestamp_seconds: float | None = level("Unix time of the last read that succeeded in full.")
    failing: Mapping[str, int] | None = level(
        "1 for the reason why the last read failed; no series while it succeeds.", by="reason"
    )
