"""What states and parts of memory are called and how they are coloured, the same on every dashboard."""

from collections.abc import Callable

from advisor.policy import Policy
from advisor.report import COMPONENTS, LIMITERS
from dashboards.grafana.panels import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, YELLOW, Steps

POLICY = Policy()

COMPONENT_COLORS = {
    "weights": ("semi-dark-blue", 80),
    "kv_used": ("semi-dark-green", 80),
    "kv_idle": ("green", 40),
    "cuda_graphs": ("semi-dark-purple", 80),
    "activation_reserve": ("light-purple", 80),
    "engine_other": ("light-blue", 80),
    "foreign": ("semi-dark-orange", 80),
    "driver_reserved": (GREY, 80),
    "free": (GREY, 12),
}
"""Colour and opacity in percent: what is taken and unused is paler, what is free nearly blank."""
assert tuple(COMPONENT_COLORS) == COMPONENTS

LIMITER_LOOKS = {
    "none": ("has room", GREEN),
    "compute": ("compute", BLUE),
    "max_num_seqs": ("max_num_seqs", YELLOW),
    "kv": ("KV cache", ORANGE),
    "queue_cap": ("refusing requests", PURPLE),
    "stalled": ("stalled", RED),
}
assert set(LIMITER_LOOKS) == set(LIMITERS)

LIMITER_STATES = dict(enumerate(LIMITER_LOOKS.values()))
"""A state timeline shows numbers: the position of each limiter above."""

OOM_NEVER_OR_NOW = {-1: ("not in sight", GREEN), 0: ("now", RED)}
FULL_NEVER_OR_NOW = {-1: ("not in sight", GREEN), 0: ("now", ORANGE)}
"""Times that a panel shows in words."""
UP = {1: ("up", GREEN), 0: ("down", RED)}
FITS = {1: ("fits", GREEN), 0: ("would fail", RED)}
WORKS = {1: ("works", GREEN), 0: ("failing", RED)}
CLOCKS = {0: ("full speed", GREEN), 1: ("power limit", YELLOW), 2: ("heat", ORANGE), 3: ("hardware brake", RED)}
SEVERITIES = {1: ("info", BLUE), 2: ("warning", ORANGE), 3: ("critical", RED)}

RISK = Steps(above=((POLICY.oom_risk_warning_ratio, ORANGE), (POLICY.oom_risk_critical_ratio, RED)))
PREEMPTION_RISK = Steps(above=((POLICY.preemption_risk_warning_ratio, ORANGE),))
SLACK = Steps(base=RED, above=((0.0, GREEN),))
TIME_TO_OOM = Steps(
    base=RED,
    above=((POLICY.oom_horizon_seconds, ORANGE), (POLICY.time_to_oom_warning_seconds, GREEN)),
)
TIME_TO_KV_FULL = Steps(base=ORANGE, above=((POLICY.kv_exhaustion_warning_seconds, GREEN),))
KV_USAGE = Steps(above=((POLICY.kv_full_ratio, ORANGE),))
CAPACITY_GAP = Steps(base=ORANGE, above=((POLICY.capacity_gap_warning_ratio, GREEN),))
REQUESTS_LEFT = Steps(base=ORANGE, above=((1.0, GREEN),))
COUNT_OF_BAD = Steps(above=((1.0, RED),))
COUNT_OF_WARNINGS = Steps(above=((1.0, ORANGE),))
COUNT_OF_ADVICE = Steps(above=((1.0, BLUE),))
CONFIDENCE = Steps(base=GREY, above=((POLICY.advice_confidence_ratio, GREEN),))
TEMPERATURE = Steps(above=((POLICY.temperature_warning_celsius, ORANGE),))


def scaled(steps: Steps, factor: float) -> Steps:
    """Return steps for the same value in another unit."""
    return Steps(base=steps.base, above=tuple((value * factor, color) for value, color in steps.above))


def limiter_number(selector_of: Callable[[str], str], by: str = "instance, engine, dp_rank") -> str:
    """Return an expression that spells each engine's limiter as its number in `LIMITER_STATES`.

    Args:
        selector_of: From a limiter to the selector of its 0/1 series.
        by: Labels that tell engines apart.
    """
    summands = [f"{selector_of(name)} * {position}" for position, name in enumerate(LIMITER_LOOKS)]
    return f"sum by ({by}) ({' or '.join(summands)})"
