"""One history told to the model and to every rule, and what their alerts were worth."""

import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from advisor.policy import Policy
from advisor.risk import assess
from advisor.risk_state import GpuState, observe
from bench.backtest.kinds import Kind
from bench.backtest.rules import RULES
from bench.backtest.scene import Scene

FOR_SECONDS = 30.0
KEEP_FIRING_SECONDS = 600.0
STALE_SECONDS = 300.0
"""A pending alert without samples for this long starts anew."""
LEAST_LEAD_SECONDS = 300.0
VISIBLE_SECONDS = 600.0
LATE_SECONDS = 10_800.0
THRESHOLDS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99)
BINS = 10
_EVERY = 10
"""Calibration looks at every tenth moment: neighbours say the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AlertScore:
    """What one alert was worth in one history."""

    lead_seconds: float | None
    """From firing until the end, None where it did not fire then."""
    false_alarms: int
    late_false_alarms: int
    """Those after the first three hours, when every cycle has been seen once."""
    false_seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class HistoryScore:
    """One history, judged."""

    seconds: float
    ended: bool
    visible: bool
    """Whether the cause was there ten minutes before the end."""
    alerts: dict[str, AlertScore]
    """By rule; the model's under the text of each threshold."""
    said: tuple[int, ...]
    """Moments in each bin of risk."""
    came: tuple[int, ...]
    """Those of them after which memory ended within the horizon."""
    squares: dict[str, float]
    """Sum of (said - outcome) squared over those moments, for the model and each rule, which says 0 or 1."""


def play(kind: Kind, seed: str, policy: Policy) -> HistoryScore:
    """Draw a history until its first moment fits the GPU, and judge it."""
    attempt = 0
    while True:
        rng = random.Random(f"{kind.__name__} {seed} {attempt}")  # noqa: S311 - made-up histories, not secrets
        _, ended = next(kind(rng).moments())
        if not ended:
            return judge(kind(random.Random(f"{kind.__name__} {seed} {attempt}")), policy)  # noqa: S311 - as above
        attempt += 1


def judge(scene: Scene, policy: Policy) -> HistoryScore:
    """Tell a history to the model and to every rule, moment by moment."""
    times, risks = array("d"), array("d")
    rules = {name: make() for name, (make, _) in RULES.items()}
    truths = {name: bytearray() for name in rules}
    state = GpuState()
    end, ended = scene.seconds, False
    for seen, over in scene.moments():
        if over:
            end, ended = seen.now_seconds, True
            break
        state = observe(state, seen, horizon_seconds=policy.oom_horizon_seconds)
        times.append(seen.now_seconds)
        risks.append(assess(state, seen, horizon_seconds=policy.oom_horizon_seconds).risk_ratio)
        for name, rule in rules.items():
            truths[name].append(rule(seen.now_seconds, seen.free_bytes, scene.capacity_bytes))
    cause = scene.cause_at_seconds if ended else None
    alerts = {
        name: _scored(episodes(times, truth, RULES[name][1]), end, cause, ended=ended) for name, truth in truths.items()
    }
    for threshold in (*THRESHOLDS, policy.oom_risk_warning_ratio):
        truth = bytearray(risk > threshold for risk in risks)
        alerts[str(threshold)] = _scored(episodes(times, truth, FOR_SECONDS), end, cause, ended=ended)
    said, came = [0] * BINS, [0] * BINS
    squares = dict.fromkeys(("ours", *truths), 0.0)
    for position in range(0, len(times), _EVERY):
        left = end - times[position]
        if not ended and left < policy.oom_horizon_seconds:
            break
        outcome = ended and left <= policy.oom_horizon_seconds
        risk = risks[position]
        place = min(BINS - 1, int(risk * BINS))
        said[place] += 1
        came[place] += outcome
        squares["ours"] += (risk - outcome) ** 2
        for name, truth in truths.items():
            squares[name] += (truth[position] - outcome) ** 2
    return HistoryScore(
        seconds=end,
        ended=ended,
        visible=ended and cause is not None and cause <= end - VISIBLE_SECONDS,
        alerts=alerts,
        said=tuple(said),
        came=tuple(came),
        squares=squares,
    )


def episodes(times: Sequence[float], truth: Sequence[int], for_seconds: float) -> list[tuple[float, float]]:
    """Return from when to when an alert fires: true for so long, kept firing for ten minutes after it was last true."""
    found: list[tuple[float, float]] = []
    pending: float | None = None
    last = -STALE_SECONDS
    for now, holds in zip(times, truth, strict=True):
        if now - last > STALE_SECONDS:
            pending = None
        last = now
        if not holds:
            pending = None
            continue
        pending = now if pending is None else pending
        firing = bool(found) and now <= found[-1][1]
        if firing:
            found[-1] = (found[-1][0], now + KEEP_FIRING_SECONDS)
        elif now - pending >= for_seconds:
            found.append((now, now + KEEP_FIRING_SECONDS))
    return found


def _scored(fired: list[tuple[float, float]], end: float, cause_at_seconds: float | None, *, ended: bool) -> AlertScore:
    """Count an alert as false when memory does not end while it fires, or as far as it fires before there is a cause.

    One that fires before the cause and still at the end is false once and yet counts as an alert ahead: a rule that
    always fires has full recall, and false alarms in proportion.
    """
    lead, false, late, false_seconds = None, 0, 0, 0.0
    for since, until in fired:
        if ended and until >= end:
            lead = end - since
            early = (end if cause_at_seconds is None else cause_at_seconds) - since
            # Without a cause that could be seen, firing within the horizon is still no false alarm.
            early = min(early, lead - LEAST_LEAD_SECONDS * 3) if cause_at_seconds is None else early
            if early <= 0:
                continue
            false_seconds += early
        else:
            false_seconds += min(until, end) - since
        false += 1
        late += since > LATE_SECONDS
    return AlertScore(lead_seconds=lead, false_alarms=false, late_false_alarms=late, false_seconds=false_seconds)
