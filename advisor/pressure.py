"""How close an engine is to preempting, and when its KV cache is full: from what runs, what comes and how it grows.

Usage alone says nothing: 95 % full with nobody waiting and nobody preempted is a healthy engine. What counts is
whether those who run, and those about to, will together come to need more than there is.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

from advisor.load import EngineLoad
from advisor.tuning import Holding, overflow_ratio

_LOOKS = 8
_FORECAST_SECONDS = 3600.0
_STEPS = 360
_LEAST_FINISHED = 20.0
_COMPARABLE = 0.1
"""How much fuller than in the last minutes the cache may be for those minutes to say something still."""
_NORMAL = NormalDist()


@dataclass(frozen=True, kw_only=True, slots=True)
class Pressure:
    """One engine at one moment."""

    running: float
    waiting: float
    used_tokens: float
    capacity_tokens: float
    max_num_seqs: float | None
    held: Holding
    turnover_seconds: float
    """How long a request runs: after it, everybody has been replaced."""
    arrivals_over_completions: float
    """Requests a second by which demand grows."""
    growth_error_per_second: float
    """Standard error of that, were arrivals and completions both by chance."""
    growth_seen_seconds: float
    """How long it was watched: it is not taken to go on for longer."""
    completions_per_second: float
    """While anything ran."""
    preempted: float
    """Preemptions in the time below."""
    observed_seconds: float
    """Time under load that was watched lately."""
    usual_usage_ratio: float
    """Mean usage in it."""

    @property
    def expected_running(self) -> float:
        """Those that run once who waits now is let in."""
        wanted = self.running + self.waiting
        return wanted if self.max_num_seqs is None else max(self.running, min(wanted, self.max_num_seqs))

    @property
    def sure_growth_per_second(self) -> float:
        """What is left of the growth, or of the fall, beyond chance."""
        growth = self.arrivals_over_completions
        return math.copysign(max(0.0, abs(growth) - 2 * self.growth_error_per_second), growth)

    @property
    def queue_drain_seconds(self) -> float:
        """Time in which those who wait now are served."""
        return self.waiting / self.completions_per_second if self.waiting else 0.0


def pressure(
    load: EngineLoad,
    held: Holding | None,
    *,
    running: float | None,
    waiting: float | None,
    used_tokens: float | None,
    capacity_tokens: float | None,
    max_num_seqs: float | None,
) -> Pressure | None:
    """Return the pressure on an engine, None until a few requests have been seen to finish."""
    sums = load.fast if load.fast.finished >= _LEAST_FINISHED else load.slow
    if held is None or running is None or used_tokens is None or not capacity_tokens or sums.finished < _LEAST_FINISHED:
        return None
    fast = load.fast
    return Pressure(
        running=running,
        waiting=waiting or 0.0,
        used_tokens=used_tokens,
        capacity_tokens=capacity_tokens,
        max_num_seqs=max_num_seqs,
        held=held,
        turnover_seconds=max(0.1, sums.running / sums.finished),
        arrivals_over_completions=(fast.arrived - fast.finished) / fast.seconds if fast.seconds > 0 else 0.0,
        growth_error_per_second=math.sqrt(fast.arrived + fast.finished) / fast.seconds if fast.seconds > 0 else 0.0,
        growth_seen_seconds=fast.seconds,
        completions_per_second=sums.finished / max(1e-9, sums.busy_seconds),
        preempted=fast.preempted,
        observed_seconds=fast.busy_seconds,
        usual_usage_ratio=fast.used / fast.sampled_seconds / capacity_tokens if fast.sampled_seconds > 0 else 0.0,
    )


def preemption_risk_ratio(now: Pressure, horizon_seconds: float) -> float:
    """Return the probability that a request is preempted within the horizon.

    The model: used tokens forget where they stand within a turnover and then vary as the sum of what runs. Its rate
    of overflows is corrected by what was seen: two turnovers' worth of belief in the model against the preemptions
    of the last minutes, as far as the cache was about as full then.
    """
    tau = now.turnover_seconds
    chances = [_overflow_after(now, tau * (look + 1) / 2) for look in range(_LOOKS)]
    later = _overflow_after(now, 10 * tau)
    looks = max(1.0, horizon_seconds / tau)
    near_looks = min(float(_LOOKS), looks)
    spared = math.fsum(math.log1p(-min(each, 1 - 1e-9)) for each in chances) * near_looks / _LOOKS
    spared += max(0.0, looks - near_looks) * math.log1p(-min(later, 1 - 1e-9))
    model_rate = -spared / horizon_seconds
    usage = now.used_tokens / now.capacity_tokens
    fuller = usage - now.usual_usage_ratio
    # Calm at a higher usage is calm at a lower one; preemptions at another usage say nothing of this one.
    apart = max(fuller, 0.0) / _COMPARABLE if now.preempted == 0 else abs(fuller) / (3 * _COMPARABLE)
    comparable = max(0.0, 1 - apart)
    belief_seconds = 2 * tau
    seen_seconds = comparable * now.observed_seconds
    rate = (comparable * now.preempted + model_rate * belief_seconds) / (seen_seconds + belief_seconds)
    return -math.expm1(-rate * horizon_seconds)


def _overflow_after(now: Pressure, seconds: float) -> float:
    """Return the chance that used tokens exceed the capacity this long from now."""
    left = math.exp(-seconds / now.turnover_seconds)
    count = max(1.0, now.expected_running)
    if left < 1e-3:
        return overflow_ratio(max(1, round(count)), now.held, now.capacity_tokens)
    mean = count * now.held.mean_tokens + (now.used_tokens - now.running * now.held.mean_tokens) * left
    deviation = now.held.spread_tokens * math.sqrt(count * (1 - left**2))
    if deviation <= 0:
        return float(mean > now.capacity_tokens)
    return 1 - _NORMAL.cdf((now.capacity_tokens - mean) / deviation)


def time_to_kv_exhaustion_seconds(now: Pressure) -> float:
    """Return when the mean of used tokens reaches the capacity, +Inf where it does not within an hour.

    Who waits is let in as far as max_num_seqs goes; demand grows on as it lately did, as far as that is no chance and
    for as long again; used tokens follow what runs within a turnover.
    """
    used, running = now.used_tokens, now.expected_running
    if used >= now.capacity_tokens or (now.waiting > 0 and used >= 0.99 * now.capacity_tokens):
        return 0.0
    step = _FORECAST_SECONDS / _STEPS
    follow = -math.expm1(-step / now.turnover_seconds)
    for count in range(_STEPS):
        if count * step < now.growth_seen_seconds:
            running = max(0.0, running + now.sure_growth_per_second * step)
        if now.max_num_seqs is not None:
            running = min(running, max(now.max_num_seqs, now.running))
        before = used
        used += (running * now.held.mean_tokens - used) * follow
        if used >= now.capacity_tokens:
            part = (now.capacity_tokens - before) / (used - before)
            return (count + part) * step
    return math.inf
