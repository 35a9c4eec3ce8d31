"""How close an engine is to preempting, and when its KV cache is full: from what runs, what comes and how it grows.

Usage alone says nothing: 95% full with nobody waiting and nobody preempted is a healthy engine. What counts is
whether those who run, and those about to, will together come to need more than there is. Constants that name no source
were shaped by the simulated engines' tuning seeds (docs/risk.md).
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

from advisor.load import EngineLoad, Sums
from advisor.tuning import Holding, gamma_deviations
from advisor.units import spelled_ratio, spelled_seconds

REMEDY = (
    "send new requests elsewhere; for good, a lower --max-num-seqs or more KV memory (a higher "
    "--gpu-memory-utilization, --kv-cache-dtype fp8)"
)
"""What to do about a preemption that is to come."""

_LOOKS = 12
_BELIEF_SPELLS = 0.4
"""As many spells are the model worth against those that were seen: the shape of a gamma distribution of the rate."""
_DISPERSION_TURNOVERS = 2.0
"""As much is it worth that requests come and go by chance."""
_MOST_DISPERSION = 1.5
"""A number that varies by much more than chance was seen to change: that is no wave that returns within a turnover."""
_DRIFT_RATIO = 0.3
"""By how much demand may come to differ from what it is, as a share; that a service's demand drifts nobody can know."""
_FORECAST_SECONDS = 3600.0
_STEPS = 360
_LEAST_FINISHED = 20.0
_MOST_FULLNESS = 1.2
"""Beyond that it makes no difference how much more is wanted than there is."""
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
    arrivals_per_second: float
    dispersion: float
    """Variance over mean of the number that runs: 1 where requests come by chance, 0 where clients keep it up."""
    preempts_ratio: float
    """Preemptions for each request that ends while the cache is full."""
    completions_per_second: float
    """While anything ran."""
    spells: float
    """Spells of preemption in the time below, as in `advisor.load.Sums`."""
    observed_seconds: float
    """Time under load that was watched lately."""
    usual_fullness_ratio: float
    """What `fullness_ratio` was in it for the means of what ran, what waited and what was used."""

    @property
    def expected_running(self) -> float:
        """Those that run once who waits now is let in."""
        return _let_in(self.running, self.waiting, self.max_num_seqs)

    @property
    def fullness_ratio(self) -> float:
        """Share of the KV cache in use, now or once who waits is let in, whichever is more."""
        return _fullness(self.used_tokens, self.expected_running * self.held.mean_tokens, self.capacity_tokens)

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
    preempts_ratio: float | None = None,
) -> Pressure | None:
    """Return the pressure on an engine, None until a few requests have been seen to finish.

    Args:
        load: What it was seen to do.
        held: What one of its requests holds.
        running: Requests, now.
        waiting: Requests, now.
        used_tokens: Of its KV cache, now.
        capacity_tokens: Of its KV cache.
        max_num_seqs: The limit in effect.
        preempts_ratio: As `advisor.tuning.preempts_ratio`; None: an overflow preempts at once.
    """
    sums = load.fast if load.fast.finished >= _LEAST_FINISHED else load.slow
    if held is None or running is None or used_tokens is None or not capacity_tokens or sums.finished < _LEAST_FINISHED:
        return None
    fast = load.fast
    turnover = max(0.1, sums.running / sums.finished)
    return Pressure(
        running=running,
        waiting=waiting or 0.0,
        used_tokens=used_tokens,
        capacity_tokens=capacity_tokens,
        max_num_seqs=max_num_seqs,
        held=held,
        turnover_seconds=turnover,
        arrivals_over_completions=(fast.arrived - fast.finished) / fast.seconds if fast.seconds > 0 else 0.0,
        growth_error_per_second=math.sqrt(fast.arrived + fast.finished) / fast.seconds if fast.seconds > 0 else 0.0,
        growth_seen_seconds=fast.seconds,
        arrivals_per_second=fast.arrived / fast.seconds if fast.seconds > 0 else 0.0,
        dispersion=_dispersion(fast, turnover),
        preempts_ratio=1.0 if preempts_ratio is None else preempts_ratio,
        completions_per_second=sums.finished / max(1e-9, sums.busy_seconds),
        spells=fast.spells,
        observed_seconds=fast.busy_seconds,
        usual_fullness_ratio=_usual_fullness(fast, held, capacity_tokens, max_num_seqs),
    )


def _let_in(running: float, waiting: float, max_num_seqs: float | None) -> float:
    wanted = running + waiting
    return wanted if max_num_seqs is None else max(running, min(wanted, max_num_seqs))


def _fullness(used_tokens: float, expected_tokens: float, capacity_tokens: float) -> float:
    return min(_MOST_FULLNESS, max(used_tokens, expected_tokens) / capacity_tokens)


def _usual_fullness(sums: Sums, held: Holding, capacity_tokens: float, max_num_seqs: float | None) -> float:
    if sums.sampled_seconds <= 0:
        return 0.0
    ran, waited, used = (each / sums.sampled_seconds for each in (sums.running, sums.waiting, sums.used))
    return _fullness(used, _let_in(ran, waited, max_num_seqs) * held.mean_tokens, capacity_tokens)


def _dispersion(sums: Sums, turnover_seconds: float) -> float:
    if sums.sampled_seconds <= 0:
        return 1.0
    mean = sums.running / sums.sampled_seconds
    variance = max(0.0, sums.running_squared / sums.sampled_seconds - mean**2)
    turnovers = sums.sampled_seconds / turnover_seconds
    seen = (variance / max(1.0, mean) * turnovers + _DISPERSION_TURNOVERS) / (turnovers + _DISPERSION_TURNOVERS)
    return min(_MOST_DISPERSION, seen)


def because(now: Pressure) -> str:
    """Say what the risk of a preemption and the time to a full cache rest on, the figures that decide them first."""
    wanted = max(now.used_tokens, now.expected_running * now.held.mean_tokens) / now.capacity_tokens
    waits = f" and {now.waiting:,.0f} wait" if now.waiting else ""
    let_in = now.expected_running - now.running
    whom = "all of them" if let_in >= now.waiting else "those that max-num-seqs lets in"
    once = f" once {whom} run" if let_in > 0 else ""
    growth = 60 * now.sure_growth_per_second
    demand = (
        f"demand {'grows' if growth > 0 else 'falls'} by {abs(growth):.1f} requests a minute"
        if abs(growth) >= 0.1
        else "demand neither grows nor falls beyond chance"
    )
    spells = max(1, round(now.spells))
    often = "never" if now.spells < 0.05 else f"about {spells} time{'' if spells == 1 else 's'}"
    load = f"the last {spelled_seconds(now.observed_seconds)} of load"
    lately = f"; in {load} it preempted {often}" if now.observed_seconds >= 1 else ""
    return (
        f"{now.running:,.0f} requests run{waits}; each holds {now.held.mean_tokens:,.0f} tokens on average (spread "
        f"{now.held.spread_tokens:,.0f}), {spelled_ratio(wanted)} of the KV cache{once}; {demand}{lately}"
    )


def preemption_risk_ratio(now: Pressure, horizon_seconds: float) -> float:
    """Return the probability that a request is preempted within the horizon.

    Spells of preemption come at a rate that is known but by a gamma distribution: what the model expects is its mean,
    and the spells of the last minutes, or their absence, correct it as far as the cache was about as full then.
    """
    fuller = now.fullness_ratio - now.usual_fullness_ratio
    # Calm when it was fuller is calm when it is emptier; preemptions at another fullness say nothing of this one.
    apart = max(fuller, 0.0) / _COMPARABLE if now.spells == 0 else abs(fuller) / (3 * _COMPARABLE)
    comparable = max(0.0, 1 - apart)
    expected = max(1e-12, _mean_rate(now, horizon_seconds))
    spells = _BELIEF_SPELLS + comparable * now.spells
    seconds = _BELIEF_SPELLS / expected + comparable * now.observed_seconds
    return -math.expm1(-spells / seconds * horizon_seconds)


def _mean_rate(now: Pressure, horizon_seconds: float) -> float:
    """Return the preemptions a second that are to be expected, as a mean over the horizon.

    Demand, running and waiting, goes on as it is: who is there leaves within a turnover, and as many come; where more
    are there than can run, they are served one after the other. What they hold forgets within a turnover where it
    stands. The rates at a few moments, ever further apart, are joined by straight lines.
    """
    tau = now.turnover_seconds
    room = now.capacity_tokens / now.held.mean_tokens
    served = room if now.max_num_seqs is None else min(room, now.max_num_seqs)
    there = now.running + now.waiting
    usual = now.arrivals_per_second * tau
    # How many are there is partly chance; how many usually are may be over.
    drift = (_DRIFT_RATIO * usual) ** 2
    wanted = usual + (there - usual) * (drift / max(1e-9, drift + now.dispersion * usual))
    first = min(0.15 * tau, horizon_seconds / 4)
    apart = (horizon_seconds / first) ** (1 / (_LOOKS - 1))
    demand, before_seconds, total = there, 0.0, 0.0
    rate_before: float | None = None
    for look in range(_LOOKS):
        seconds = first * apart**look
        step = seconds - before_seconds
        demand = _demand_after(demand, wanted, served, tau, step)
        rate = _rate_at(now, demand, wanted, served, seconds)
        total += step * (rate if rate_before is None else (rate + rate_before) / 2)
        rate_before, before_seconds = rate, seconds
    return total / horizon_seconds


def _demand_after(demand: float, wanted: float, served: float, tau: float, seconds: float) -> float:
    """Return the mean of demand after so long: a queue changes evenly, what can all run goes to what is wanted."""
    if demand > served:
        growth = (wanted - served) / tau
        queued = seconds if growth >= 0 else min(seconds, (served - demand) / growth)
        demand += growth * queued
        seconds -= queued
    return wanted + (demand - wanted) * math.exp(-seconds / tau) if seconds > 0 else demand


def _rate_at(now: Pressure, demand: float, wanted: float, served: float, seconds: float) -> float:
    """Return the preemptions a second to be expected this long from now.

    What is held is the sum over a number of requests that varies: some leave and others come, by chance as far as their
    number was seen to vary, and demand may drift. The rate is that at which such a sum, in units of its deviation and
    of a turnover, comes to exceed the capacity for the first time, times the chance that a request is preempted before
    it falls again.
    """
    left = math.exp(-seconds / now.turnover_seconds)
    running = min(now.running + now.waiting, served)
    chance = now.dispersion * (running * left + wanted) * (1 - left)
    drift = min(1.0, now.dispersion**2) * (_DRIFT_RATIO * wanted * (1 - left)) ** 2
    deviation = math.sqrt(chance + drift)
    most = math.inf if now.max_num_seqs is None else max(now.max_num_seqs, now.running)
    mean = square = 0.0
    for place, weight in _NODES:
        number = min(most, max(0.0, demand + place * deviation))
        held = number * now.held.mean_tokens
        mean += weight * held
        square += weight * (held**2 + number * now.held.spread_tokens**2 * (1 - left**2))
    variance = square - mean**2
    # What those who run now hold beyond the mean, or short of it, wears off.
    room = now.capacity_tokens - (now.used_tokens - now.running * now.held.mean_tokens) * left
    if mean <= 0:
        return 0.0
    if variance <= 1e-9 * now.capacity_tokens**2 or room <= 0:
        above = -_FURTHEST if mean > room else _FURTHEST
    else:
        above = gamma_deviations(mean**2 / variance, room / mean)
    passages = _passages(above)
    full = 1 - _NORMAL.cdf(above)
    ends = max(1.0, min(demand, served))  # in a turnover, of those who run by then
    preempted = -math.expm1(-now.preempts_ratio * ends * full / passages)
    return passages * preempted / now.turnover_seconds


_NODES = ((0.0, 8 / 15), (1.355626, 0.222076), (-1.355626, 0.222076), (2.856970, 0.0112573), (-2.856970, 0.0112573))
"""Gauss and Hermite's five places of a normal variable, with their weights."""
_FURTHEST = 7.0
_PER_DEVIATION = 10
_LOWEST = -0.9
"""From here down a first passage is a matter of less than a tenth of a turnover."""


def _passage_rates() -> tuple[float, ...]:
    """Return the first passages of each level in a turnover, for levels from `_LOWEST` on.

    The quantity forgets where it stands within a turnover (Ornstein and Uhlenbeck's process). From the deviation below
    its mean where it usually begins, it first reaches z after sqrt(2 pi) times the integral of exp(u^2/2) Phi(u) up to
    z, in turnovers (Siegert 1951; Ricciardi and Sato 1988).
    """
    step = 1 / _PER_DEVIATION
    rates, time = [10.0], 0.0
    for place in range(int((_FURTHEST - _LOWEST) * _PER_DEVIATION)):
        u = _LOWEST + (place + 0.5) * step
        time += math.sqrt(2 * math.pi) * math.exp(u * u / 2) * _NORMAL.cdf(u) * step
        rates.append(min(10.0, 1 / time))
    return tuple(rates)


_PASSAGE_RATES = _passage_rates()


def _passages(deviations: float) -> float:
    place = min(max(0.0, (deviations - _LOWEST) * _PER_DEVIATION), len(_PASSAGE_RATES) - 1.001)
    low = int(place)
    return _PASSAGE_RATES[low] + (_PASSAGE_RATES[low + 1] - _PASSAGE_RATES[low]) * (place - low)


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
