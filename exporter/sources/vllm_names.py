"""What vLLM calls each figure on its /metrics page, by release.

The one place to touch when a release renames a metric. Read from ``vllm/engine/metrics.py`` (V0) and
``vllm/v1/metrics/loggers.py`` (V1) of the published releases 0.4 to 0.33.
"""

from dataclasses import dataclass
from enum import Enum

from advisor.versions import Version


class Shape(Enum):
    """How a figure appears on the page."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, kw_only=True, slots=True)
class Spelling:
    """One name of a figure and the releases that use it."""

    name: str
    """As on the wire, without the ``vllm:`` prefix; a counter's with ``_total``."""
    since: Version
    until: Version | None = None
    """Last release with this name, None while it is current."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One figure by our name, newest spelling first."""

    key: str
    shape: Shape
    spellings: tuple[Spelling, ...]
    expected: bool = True
    """Whether its absence from a page of those releases is worth a ``metric_missing``."""


def _figure(key: str, shape: Shape, *spellings: tuple[str, Version, Version | None], expected: bool = True) -> Figure:
    return Figure(
        key=key,
        shape=shape,
        expected=expected,
        spellings=tuple(Spelling(name=name, since=since, until=until) for name, since, until in spellings),
    )


_G, _C, _H = Shape.GAUGE, Shape.COUNTER, Shape.HISTOGRAM

FIGURES: tuple[Figure, ...] = (
    _figure("requests_running", _G, ("num_requests_running", (0, 2, 7), None)),
    _figure("requests_waiting", _G, ("num_requests_waiting", (0, 2, 7), None)),
    _figure("requests_waiting_by_reason", _G, ("num_requests_waiting_by_reason", (0, 20, 0), None)),
    _figure(
        "kv_usage_ratio",
        _G,
        ("kv_cache_usage_perc", (0, 9, 2), None),
        ("gpu_cache_usage_perc", (0, 2, 7), (0, 11, 2)),
    ),
    _figure("sleep_state", _G, ("engine_sleep_state", (0, 11, 1), None), expected=False),
    _figure(
        "cache_config",
        _G,
        ("cache_config_info", (0, 3, 3), None),
    ),
    _figure("preemptions_total", _C, ("num_preemptions_total", (0, 4, 3), None)),
    _figure("prompt_tokens_total", _C, ("prompt_tokens_total", (0, 3, 3), None)),
    _figure("generation_tokens_total", _C, ("generation_tokens_total", (0, 3, 3), None)),
    _figure("requests_finished_total", _C, ("request_success_total", (0, 4, 2), None), expected=False),
    _figure(
        "prefix_cache_queries_total",
        _C,
        ("prefix_cache_queries_total", (0, 9, 2), None),
        ("gpu_prefix_cache_queries_total", (0, 7, 3), (0, 11, 2)),
        expected=False,
    ),
    _figure(
        "prefix_cache_hits_total",
        _C,
        ("prefix_cache_hits_total", (0, 9, 2), None),
        ("gpu_prefix_cache_hits_total", (0, 7, 3), (0, 11, 2)),
        expected=False,
    ),
    _figure("rejections_total", _C, ("admission_rejections_total", (0, 32, 0), None), expected=False),
    _figure("prompt_tokens", _H, ("request_prompt_tokens", (0, 4, 2), None)),
    _figure("generation_tokens", _H, ("request_generation_tokens", (0, 4, 2), None)),
    _figure("queue_seconds", _H, ("request_queue_time_seconds", (0, 6, 4), None)),
    _figure("time_to_first_token_seconds", _H, ("time_to_first_token_seconds", (0, 3, 3), None)),
    _figure(
        "inter_token_seconds",
        _H,
        ("inter_token_latency_seconds", (0, 10, 2), None),
        ("time_per_output_token_seconds", (0, 3, 3), (0, 14, 1)),
    ),
    _figure("end_to_end_seconds", _H, ("e2e_request_latency_seconds", (0, 3, 3), None), expected=False),
    _figure("iteration_tokens", _H, ("iteration_tokens_total", (0, 6, 4), None), expected=False),
)

_NO_SWAP = "a preempted request is computed again, never swapped: see num_preemptions_total"
_HIT_RATE = "divide the rates of prefix_cache_hits_total and prefix_cache_queries_total"
GONE: dict[str, tuple[Version, str]] = {
    "num_requests_swapped": ((0, 9, 0), _NO_SWAP),
    "cpu_cache_usage_perc": ((0, 9, 0), _NO_SWAP),
    "gpu_prefix_cache_hit_rate": ((0, 9, 0), _HIT_RATE),
    "cpu_prefix_cache_hit_rate": ((0, 9, 0), _HIT_RATE),
    "avg_prompt_throughput_toks_per_s": ((0, 6, 6), "take the rate of prompt_tokens_total"),
    "avg_generation_throughput_toks_per_s": ((0, 6, 6), "take the rate of generation_tokens_total"),
    "tokens_total": ((0, 7, 3), "add prompt_tokens_total and generation_tokens_total"),
}
"""Names that dashboards still ask for and no other name took the place of: the last release, and what to do instead.

As in the published releases (``vllm/engine/metrics.py``): what V0 had and V1 never did.
"""

BY_SPELLING = {spelling.name: figure for figure in FIGURES for spelling in figure.spellings}


def expected_figures(version: Version | None) -> tuple[Figure, ...]:
    """Return the figures that a page of this release should show; of an unknown release, those all releases show."""
    if version is None:
        return tuple(
            figure
            for figure in FIGURES
            if figure.expected and min(each.since for each in figure.spellings) <= (0, 4, 3)
        )
    return tuple(
        figure
        for figure in FIGURES
        if figure.expected
        and any(each.since <= version and (each.until is None or version <= each.until) for each in figure.spellings)
    )
