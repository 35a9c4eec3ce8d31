"""What each engine held at its starts: the same flags should give the same capacity every time.

Kept over restarts of the daemon, bounded in size. State in, state out.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from advisor.readings import EngineProcess, EngineReading
from advisor.report import Report, Start
from advisor.snapshot import Snapshot

MOST_ENGINES = 256
"""Servers that come and go under ever new names must not fill the state directory."""
_SAME_START_SECONDS = 2.0
_NOT_ABOUT_MEMORY = frozenset(
    {"host", "port", "uds", "root_path", "ssl_certfile", "served_model_name", "api_server_count", "disable_log_stats"}
)


@dataclass(frozen=True, slots=True)
class Starts:
    """The last two starts of each engine with each set of flags: ``{key: (newest, the one before)}``."""

    by_key: Mapping[str, tuple[Start, ...]]

    def before(self, key: str, began_wall_seconds: float) -> Start | None:
        """Return the last start before the one that began then."""
        known = self.by_key.get(key, ())
        return next((each for each in known if not _is_same(each, began_wall_seconds)), None)


NONE_YET = Starts({})


def _is_same(start: Start, began_wall_seconds: float) -> bool:
    return abs(start.began_wall_seconds - began_wall_seconds) <= _SAME_START_SECONDS


def began_wall_seconds(reading: EngineReading, server: EngineProcess | None) -> float | None:
    """Return when this engine started, None where neither its page nor the process table says."""
    return reading.started_at_seconds or (server.started_at_seconds if server else None)


def previous_starts(starts: Starts, snapshot: Snapshot) -> dict[tuple[str, str], Start]:
    """Return for each engine that answers the start before its present one, by (engine, rank)."""
    found = {}
    for reading in snapshot.engines:
        server = snapshot.server_at(reading.url)
        began = began_wall_seconds(reading, server)
        before = starts.before(start_key(reading, server), began) if began is not None else None
        if before is not None:
            found[reading.engine, reading.dp_rank] = before
    return found


def start_key(reading: EngineReading, server: EngineProcess | None) -> str:
    """Return what must be equal for two starts to be comparable: engine, rank, model and every flag about memory.

    A server whose command line is out of reach is known by the flags that its page repeats.
    """
    if server is not None:
        digest = server.flags.digest(without=_NOT_ABOUT_MEMORY)
    else:
        cache = reading.cache
        flags = [cache.gpu_memory_utilization, cache.block_size, cache.cache_dtype, reading.max_model_len]
        digest = hashlib.sha256(json.dumps(flags).encode()).hexdigest()[:16]
    return f"{reading.engine} {reading.dp_rank} {reading.model_name} {digest}"


def remember_starts(starts: Starts, snapshot: Snapshot, report: Report) -> Starts:
    """Fold in the engines that answer now; only what vLLM itself reported counts as capacity."""
    capacities = {
        (engine.engine, engine.dp_rank): engine.kv_capacity_tokens
        for engine in report.engines
        if engine.kv_capacity_origin in ("reported", "derived")
    }
    by_key = dict(starts.by_key)
    for reading in snapshot.engines:
        capacity = capacities.get((reading.engine, reading.dp_rank))
        server = snapshot.server_at(reading.url)
        began = began_wall_seconds(reading, server)
        if capacity is None or began is None:
            continue
        key = start_key(reading, server)
        known = by_key.pop(key, ())
        now = Start(vllm_version=reading.vllm_version, capacity_tokens=capacity, began_wall_seconds=began)
        by_key[key] = (now, *(each for each in known if not _is_same(each, began)))[:2]
    return Starts(dict(list(by_key.items())[-MOST_ENGINES:]))


def to_json(starts: Starts) -> dict[str, Any]:
    """Return what `from_json` reads back."""
    return {
        key: [[each.vllm_version, each.capacity_tokens, each.began_wall_seconds] for each in known]
        for key, known in starts.by_key.items()
    }


def _amount(value: Any) -> float:
    amount = float(value)
    if not 0.0 <= amount < math.inf:
        raise ValueError(f"{amount} is no amount")
    return amount


def from_json(content: Any) -> Starts:
    """Read what `to_json` wrote.

    Raises:
        ValueError: It is something else.
    """
    try:
        return Starts(
            {
                str(key): tuple(
                    Start(
                        vllm_version=None if version is None else str(version),
                        capacity_tokens=_amount(tokens),
                        began_wall_seconds=_amount(began),
                    )
                    for version, tokens, began in known
                )
                for key, known in content.items()
            }
        )
    except (AttributeError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"not the starts of engines: {error}") from error
