"""Facts about the daemon itself. They are served whatever else fails."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from advisor.estimate import Origin
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

    collector: str = identity("Name of the source: nvml, process, vllm, model, cgroup, prometheus, state, advice.")
    success: int | None = level(
        "1 when the last read of this source succeeded in full, 0 when anything failed.", Origin.REPORTED
    )
    duration_seconds: float | None = level("How long the last finished read took.", Origin.REPORTED)
    last_success_timestamp_seconds: float | None = level(
        "Unix time of the last read that succeeded in full.", Origin.REPORTED
    )
    failing: Mapping[str, int] | None = level(
        "1 for the reason why the last read failed; no series while it succeeds.", Origin.DERIVED, by="reason"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfigReload(Fact):
    """Whether the daemon runs by what its files say now. Named as Prometheus names its own."""

    subject: ClassVar[str] = "config"

    last_reload_successful: int | None = level(
        "1 while the configuration, web configuration and certificates in effect are those on disk when they were "
        "last read (at the start, on SIGHUP, and for the web part when a file changes); 0 when they were refused and "
        "the old ones stay.",
        Origin.REPORTED,
    )
    last_reload_success_timestamp_seconds: float | None = level(
        "Unix time of the last read of the configuration that was not refused.", Origin.REPORTED
    )
