"""The right max_num_seqs from observed load: the largest number that seldom asks for more KV than there is.

What a running request holds is taken as a random quantity whose mean and spread the load tells; what N of them hold
together is then nearly a gamma variable. The recommendation is the largest N whose sum stays within the KV cache but
for a small chance, and no larger than demand, latency, the token budget and state blocks make sensible. Where the
present value neither preempts nor holds up anybody, the curve is flat and the advice is to leave it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal

from advisor.load import EngineLoad, Sums
from advisor.policy import Policy
from advisor.units import spelled_seconds

Wall = Literal["kv", "demand", "latency", "token_budget", "state_blocks", "memory", "none"]

_LEAST_SAMPLES = 30
_LEAST_TURNOVERS = 5.0
"""How often everybody who runs must have been replaced: pages in between show the same requests again."""
_LEAST_SHARING = 2.0
"""Requests that must run together on average for what they share to be told from what one holds."""
_LENGTH_TURNOVERS = 10.0
"""The spread that lengths alone predict counts as much as so many turnovers seen: it steadies the first minutes."""
NO_CAPACITY = "the engine does not say how many tokens its KV cache holds"
NO_USAGE = "the pages told no KV usage"
DEMAND_SHARE = 0.999
"""Of the busy time: what is asked for at once is what was not exceeded in it."""
_BOUND_DEVIATIONS = 1.163
"""Mean and spread both this many standard errors off: together about a one in twenty chance on either side."""
_MOST_SEQS = 65_536
_MOST_OVERFLOW = 0.45
_LONGEST_WAIT_SECONDS = 7680.0
"""vLLM's last bound for a wait."""
_DISTURBED_RATIO = 0.02
"""Preemptions over finished requests at which what was seen of the spread beyond that of lengths counts half."""
WAITING_RATIO = 0.01
"""Share of the time from which on waiting is worth a change; what was advised stays until it is half of that."""
_HOLD_RATIO = 0.15
_NORMAL = NormalDist()


@dataclass(frozen=True, kw_only=True, slots=True)
class Holding:
    """What one running request holds of the KV cache, in tokens, blocks rounded up."""

    mean_tokens: float
    """As seen: all that they held together over their number."""
    spread_tokens: float
    """Standard deviation between requests."""
    finished: float
    """Requests that the mean rests on."""
    turnovers: float
    """Independent looks that the spread rests on."""
    shared_tokens: float = 0.0
    """Of a prefix that all of them hold together: vLLM keeps its blocks once."""
    beside: float = 1.0
    """Requests that ran together on average when this was seen."""

    @property
    def own_tokens(self) -> float:
        """Mean of what a request holds for itself."""
        return self.mean_tokens - self.shared_tokens / self.beside

    @property
    def mean_error_ratio(self) -> float:
        """Standard error of the mean over the mean."""
        return self.spread_tokens / self.mean_tokens * math.sqrt(2 / max(1.0, self.finished))

    @property
    def spread_error_ratio(self) -> float:
        """Standard error of the spread over the spread."""
        return 1 / math.sqrt(2 * max(1.0, self.turnovers))

    def shifted(self, deviations: float) -> "Holding":
        """Return the holding if both mean and spread were so many standard errors larger."""
        own = self.own_tokens * max(0.1, 1 + deviations * self.mean_error_ratio)
        return replace(
            self,
            mean_tokens=own + self.shared_tokens / self.beside,
            spread_tokens=self.spread_tokens * max(0.1, 1 + deviations * self.spread_error_ratio),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Surroundings:
    """What else decides about max_num_seqs on this engine."""

    current: int
    capacity_tokens: Callable[[int], float]
    """KV tokens that the engine has with so many max_num_seqs: sampler memory comes out of the KV cache."""
    block_size: int
    max_model_len: int
    max_num_batched_tokens: int | None = None
    admits_whole_prompts: bool = True
    """Whether a request is admitted only if its whole prompt fits (``scheduler_reserve_full_isl``, 0.19 on)."""
    state_blocks: int | None = None
    """Requests for which a hybrid model has state blocks; None where it keeps none."""
    starts: Callable[[int], bool] = lambda _number: True
    """Whether vLLM would surely start with so many max_num_seqs, or as surely as with the present number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SeqsAdvice:
    """What max_num_seqs should be, and why."""

    current: int
    recommended: int
    lower: int
    upper: int
    confidence_ratio: float
    """Probability that the number sought lies within a tenth (or within one) of what was worked out."""
    binding: Wall
    because: str
    buys: tuple[str, ...]
    does_not_buy: tuple[str, ...]
    window: str
    """What it rests on."""
    wanted: int
    """Requests asked for at once, all but a thousandth of the time."""
    kv_wall: int
    """What KV alone would take."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """What an engine was seen to do; what cannot be told is None."""

    finished_requests: float
    """Of all time watched, as is the next."""
    busy_seconds: float
    mean_running: float | None
    mean_request_tokens: float | None
    """KV that one running request holds."""
    spread_request_tokens: float | None
    prompt_tokens: float | None
    """Mean of the finished."""
    generation_tokens: float | None
    peak_demand: int | None
    """Running and waiting together, all but a thousandth of the time."""
    queue_p95_seconds: float | None
    """Upper end of vLLM's bucket."""
    preempted_ratio: float | None
    """Preemptions over finished requests, at all settings seen."""
    prefix_hit_ratio: float | None
    """Share of the prompt tokens looked up that the prefix cache had."""


def observed(load: EngineLoad, held: Holding | None) -> Observed:
    """Sum up what an engine was seen to do."""
    sums = load.slow

    def share(part: float, whole: float) -> float | None:
        return part / whole if whole > 0 else None

    return Observed(
        finished_requests=load.watched_finished,
        busy_seconds=load.watched_busy_seconds,
        mean_running=share(sums.running, sums.sampled_seconds),
        mean_request_tokens=held.mean_tokens if held else None,
        spread_request_tokens=held.spread_tokens if held else None,
        prompt_tokens=load.prompt_tokens.mean,
        generation_tokens=load.generation_tokens.mean,
        peak_demand=load.demand(DEMAND_SHARE),
        queue_p95_seconds=load.queue_seconds.quantile(0.95, longest=_LONGEST_WAIT_SECONDS),
        preempted_ratio=share(sums.preempted, sums.finished),
        prefix_hit_ratio=share(sums.prefix_hits, sums.prefix_queries),
    )


def not_yet(load: EngineLoad | None, policy: Policy) -> str | None:
    """Return what is missing before any advice is given, None once enough was seen."""
    if load is None:
        return "no load has been seen yet"
    sums = load.slow
    if (
        sums.finished >= policy.advice_least_requests
        and sums.busy_seconds >= policy.advice_least_busy_seconds
        and sums.samples >= _LEAST_SAMPLES
        and _turnovers(sums) >= _LEAST_TURNOVERS
    ):
        return None
    return (
        f"not enough seen yet: {load.watched_finished:,.0f} finished requests in "
        f"{spelled_seconds(load.watched_busy_seconds)} of load; {policy.advice_least_requests:,.0f} in "
        f"{spelled_seconds(policy.advice_least_busy_seconds)} are needed, {_LEAST_SAMPLES} looks at them "
        f"(so far {math.floor(sums.samples)}), and everybody who runs replaced {_LEAST_TURNOVERS:.0f} times "
        f"(so far {math.floor(_turnovers(sums))})"
    )


def holding(load: EngineLoad, *, max_model_len: int, block_size: int) -> Holding | None:
    """Return what one running request holds, None before anything was seen.

    With N requests of mean m and standard deviation s, used tokens U have mean N m and variance N s squared, so least
    squares with weights 1/N give m = sum(U) / sum(N) and s squared = mean of (U - N m) squared / N. Where the cache is
    full it is N that varies and not U; the same formula then holds (the variance of a renewal count).
    """
    sums = load.slow
    if sums.running <= 0 or sums.used <= 0 or sums.sampled_seconds <= 0:
        return None
    mean, beside = sums.used / sums.running, sums.running / sums.sampled_seconds
    seen = max(0.0, (sums.used_squared - mean * sums.used) / sums.sampled_seconds)
    alone = _alone(load, max_model_len)
    shared = 0.0 if alone is None else _shared_tokens(load, mean, beside, alone[0] + block_size / 2, block_size)
    turnovers = max(1.0, _turnovers(sums))
    weight, expected = 0.0, 0.0
    if alone is not None:
        weight = min(_LENGTH_TURNOVERS, sums.finished / 10)
        expected = alone[1] * (mean + shared * (1 - 1 / beside)) ** 2
    if alone is not None and seen > expected:
        # A preemption throws the number running about, which reads as spread, however long one looks, and never as the
        # lack of it.
        seen = expected + (seen - expected) / (1 + sums.preempted / max(1.0, sums.finished) / _DISTURBED_RATIO)
    return Holding(
        mean_tokens=mean,
        spread_tokens=math.sqrt((seen * turnovers + expected * weight) / (turnovers + weight)),
        finished=max(1.0, sums.finished),
        turnovers=turnovers + weight,
        shared_tokens=shared,
        beside=beside,
    )


def _shared_tokens(load: EngineLoad, mean_tokens: float, beside: float, alone_tokens: float, block_size: int) -> float:
    """Return the tokens of a prefix that all who run hold together; less than a block cannot be shared.

    By its lengths a request alone would hold more than it was seen to: N requests save all but one copy of what they
    share. It is no more than the prefix cache had for a prompt. Of several prefixes less than what they save comes out,
    since the more run, the more share each.
    """
    sums, prompt = load.slow, load.prompt_tokens.mean
    if beside < _LEAST_SHARING or sums.finished <= 0 or prompt is None:
        return 0.0
    saved = (alone_tokens - mean_tokens) * beside / (beside - 1)
    shared = min(saved, sums.prefix_hits / sums.finished, prompt)
    return shared if shared >= block_size else 0.0


def _turnovers(sums: Sums) -> float:
    if sums.running <= 0:
        return 0.0
    return min(sums.samples, sums.finished * sums.sampled_seconds / sums.running)


def _alone(load: EngineLoad, max_model_len: int) -> tuple[float, float] | None:
    """Return mean, and variance over its square, of what a request holds while it decodes, from lengths alone.

    A request of prompt p and output g is seen in proportion to g and holds p + x with x even in 0..g; p and g are
    taken as independent.
    """
    prompt = load.prompt_tokens.moments(longest=max_model_len)
    output = load.generation_tokens.moments(longest=max_model_len)
    if prompt is None or output is None:
        return None
    mean = prompt[0] + output[1] / (2 * output[0])
    square = prompt[1] + prompt[0] * output[1] / output[0] + output[2] / (3 * output[0])
    return mean, max(0.0, square / mean**2 - 1)


def overflow_ratio(count: int, held: Holding, capacity_tokens: float) -> float:
    """Return the chance that ``count`` requests together need more than the capacity.

    What they hold for themselves is taken as gamma distributed with the requests' mean and variance; what they share
    is there once.
    """
    own = held.own_tokens
    mean, room = count * own, capacity_tokens - held.shared_tokens
    if mean >= room:
        return 1.0
    if held.spread_tokens <= 1e-6 * own:
        return 0.0
    shape = count * (own / held.spread_tokens) ** 2
    return 1 - _NORMAL.cdf(gamma_deviations(shape, room / mean))


def gamma_deviations(shape: float, over_mean: float) -> float:
    """Return how many deviations of a normal variable stand for this multiple of a gamma variable's mean.

    Wilson and Hilferty (1931): the cube root of a gamma variable is nearly normal. Above the mean, a shape so small
    that the tail would thin out again counts as the worst larger one; the mean itself and all below is then never
    less likely to be exceeded than what lies just above.
    """
    root = float(over_mean ** (1 / 3))
    if root > 1:
        shape = max(shape, 1 / max(1e-12, 9 * (root - 1)))
    deviations = 3 * math.sqrt(shape) * (root - 1 + 1 / (9 * shape))
    return deviations if root > 1 else min(0.0, deviations)


def largest_number(held: Holding, capacity_tokens: float, overflow_target_ratio: float) -> int:
    """Return the most requests whose chance of needing more than the capacity stays under the target; at least 1."""
    most = min(_MOST_SEQS, int(max(0.0, capacity_tokens - held.shared_tokens) / held.own_tokens))
    low, high = 1, max(1, most)
    while low < high:
        middle = (low + high + 1) // 2
        if overflow_ratio(middle, held, capacity_tokens) <= overflow_target_ratio:
            low = middle
        else:
            high = middle - 1
    return low


def preempts_ratio(load: EngineLoad, *, max_model_len: int, admits_whole_prompts: bool) -> float | None:
    """Return how many preemptions there are for each request that ends while the KV cache is full.

    Where a prompt that does not fit is kept waiting, an overflow is first of all a queue. While the head waits, the
    blocks that are free are anything from none to its prompt p; those who run grow, and the first to end gives back
    more than that. The growth before that end is about exponential with the mean output g, so it exceeds what is free
    and preempts with probability g/p (1 - exp(-p/g)). p is the mean prompt weighed by its length, since long ones do
    the waiting. None where that does not hold, or lengths are not told.
    """
    prompt = load.prompt_tokens.moments(longest=max_model_len)
    output = load.generation_tokens.mean
    if not admits_whole_prompts or prompt is None or not output:
        return None
    head = prompt[1] / prompt[0]
    return output / head * -math.expm1(-head / output)


def accepted_overflow_ratio(
    load: EngineLoad, policy: Policy, *, max_model_len: int, admits_whole_prompts: bool
) -> float:
    """Return the share of the time in which running requests may together need more KV than there is.

    The policy's share of preempted requests, divided by the preemptions that an overflow brings (`preempts_ratio`), is
    the overflow to accept: a service with long prompts and short answers can run fuller than one that writes at length.
    """
    preempts = preempts_ratio(load, max_model_len=max_model_len, admits_whole_prompts=admits_whole_prompts)
    return (
        policy.overflow_target_ratio
        if preempts is None
        else min(_MOST_OVERFLOW, policy.preempted_target_ratio / preempts)
    )


def kv_wall(held: Holding, around: Surroundings, overflow_target_ratio: float) -> int:
    """Return the largest number that KV lets run, with the KV that is there once that number is set.

    More requests mean more sampler memory and so less KV; both are looked at together until they agree.
    """
    block = max(1, around.block_size)

    def at(number: int) -> int:
        tokens = around.capacity_tokens(number)
        return largest_number(held, max(held.mean_tokens, tokens // block * block), overflow_target_ratio)

    number = at(around.current)
    for _ in range(4):
        possible = at(number)
        if possible >= number:
            return number
        number = possible
    return number


def latency_wall(load: EngineLoad, target_seconds: float | None) -> int | None:
    """Return the batch at which a token takes as long as is wanted at most.

    None without a target or a trend, and where even one request alone takes longer: then no batch is the reason.
    """
    fitted = token_seconds(load)
    if target_seconds is None or fitted is None or fitted[1] <= 0:
        return None
    batch = min(_MOST_SEQS, int((target_seconds - fitted[0]) / fitted[1]))
    return batch if batch >= 1 else None


def token_seconds(load: EngineLoad) -> tuple[float, float] | None:
    """Return (seconds, seconds a request) of the time per output token over the batch, a fitted line.

    None where the batch hardly varied: a line through one point tells nothing.
    """
    sums = load.slow
    weight = sums.latency_weight
    if weight <= 0:
        return None
    mean = sums.latency_running / weight
    variance = sums.latency_running_squared / weight - mean**2
    if variance < 0.01 * mean**2 or variance <= 0:
        return None
    slope = (sums.latency_product / weight - mean * sums.latency_seconds / weight) / variance
    return sums.latency_seconds / weight - slope * mean, slope


def recommend_seqs(load: EngineLoad, around: Surroundings, policy: Policy) -> SeqsAdvice | None:
    """Return what max_num_seqs should be; None while `not_yet` says why not.

    Args:
        load: What was seen.
        around: What else decides.
        policy: The chance of overflow that is accepted, the latency wanted, and how much must have been seen.
    """
    held = holding(load, max_model_len=around.max_model_len, block_size=around.block_size)
    wanted = load.demand(DEMAND_SHARE)
    if not_yet(load, policy) is not None or held is None or wanted is None:
        return None
    accepted = accepted_overflow_ratio(
        load, policy, max_model_len=around.max_model_len, admits_whole_prompts=around.admits_whole_prompts
    )
    walls: dict[Wall, int] = {"kv": kv_wall(held, around, accepted)}
    latency = latency_wall(load, policy.token_target_seconds)
    if latency is not None:
        walls["latency"] = latency
    if around.max_num_batched_tokens is not None:
        walls["token_budget"] = around.max_num_batched_tokens
    if around.state_blocks is not None:
        walls["state_blocks"] = max(1, around.state_blocks)
    wall = min(walls, key=lambda name: walls[name])
    others = min((each for name, each in walls.items() if name != "kv"), default=_MOST_SEQS)
    bounds = [min(others, kv_wall(held.shifted(sign * _BOUND_DEVIATIONS), around, accepted)) for sign in (1, -1)]
    choice, binding = _choice(load, held, around, policy, walls=walls, wall=wall, wanted=wanted, accepted=accepted)
    words = _Words(load=load, held=held, around=around, policy=policy, safe=walls[wall], wanted=wanted)
    because, buys, does_not = words.of(choice, binding)
    return SeqsAdvice(
        current=around.current,
        recommended=choice,
        lower=min(choice, *bounds),
        upper=max(choice, *bounds),
        confidence_ratio=_confidence(walls[wall], bounds),
        binding=binding,
        because=because,
        buys=buys,
        does_not_buy=does_not,
        window=f"{load.watched_finished:,.0f} finished requests in "
        f"{spelled_seconds(load.watched_busy_seconds)} of load",
        wanted=wanted,
        kv_wall=walls["kv"],
    )


def near(one: int, other: int) -> bool:
    """Tell whether two values are as good as the same: within one, or a tenth."""
    return abs(one - other) <= max(1.0, 0.1 * max(one, other))


def preempted_ratio(load: EngineLoad, current: int, policy: Policy) -> float | None:
    """Return preemptions over finished requests at the present setting, None until enough have finished at it."""
    setting = load.setting
    if setting.max_num_seqs != current or setting.finished < policy.advice_least_requests:
        return None
    return setting.preempted / setting.finished


def _choice(
    load: EngineLoad,
    held: Holding,
    around: Surroundings,
    policy: Policy,
    *,
    walls: dict[Wall, int],
    wall: Wall,
    wanted: int,
    accepted: float,
) -> tuple[int, Wall]:
    """Return the number and what binds it; the present one where the curve is flat."""
    current, safe = around.current, walls[wall]
    advised_before = load.advised is not None
    if current > safe:
        harmed = wanted > safe and not near(current, safe)
        if wall == "kv":
            share = preempted_ratio(load, current, policy)
            if share is None:
                # Nothing was seen of it at this setting: what is only to be expected must be twice what is accepted.
                chance = overflow_ratio(min(current, wanted), held, around.capacity_tokens(current))
                harmed = harmed and chance > min(0.9, 2 * accepted)
            else:
                # Once said, it stays said until preemptions are half as frequent.
                harmed = harmed and share > policy.preempted_target_ratio / (2 if advised_before else 1)
        if not harmed:
            return current, "demand" if wanted <= safe else wall if near(current, safe) else "none"
        return _held_on_to(load, safe), wall
    target, binding = (safe, wall) if safe <= wanted else (wanted, "demand")
    setting = load.setting
    at_setting = setting.max_num_seqs == current and setting.busy_seconds >= policy.advice_least_busy_seconds / 2
    limited = setting.limited_seconds / setting.busy_seconds if at_setting else 1.0
    if target <= current or near(target, current) or limited < WAITING_RATIO / (2 if advised_before else 1):
        return current, "demand" if wanted <= current else wall if near(current, safe) else "none"
    held_on = _held_on_to(load, target)
    if around.starts(held_on):
        return held_on, binding
    return _most_that_start(around, held_on), "memory"


def _most_that_start(around: Surroundings, too_many: int) -> int:
    """Return the largest number below one with which vLLM might not start; the present one where none is larger."""
    low, high = around.current, too_many
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if around.starts(middle) else (low, middle)
    return low


def _held_on_to(load: EngineLoad, target: int) -> int:
    """Return what was said before while it is about right, so that advice does not flap.

    Below, that is wider than `near`; above it is not, since each request more costs the chance that was accepted.
    """
    said = load.advised
    if said is None or (said > target and not near(said, target)):
        return target
    return said if abs(said - target) <= max(1.0, _HOLD_RATIO * target) else target


def _confidence(number: int, bounds: list[int]) -> float:
    error = (max(bounds) - min(bounds)) / (2 * _BOUND_DEVIATIONS * math.sqrt(2))
    room = max(1.0, 0.1 * number)
    return math.erf(room / (max(error, 0.25) * math.sqrt(2)))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Words:
    """What a person is told of a choice."""

    load: EngineLoad
    held: Holding
    around: Surroundings
    policy: Policy
    safe: int
    wanted: int

    def of(self, choice: int, binding: Wall) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
        """Return why, what the change buys, and what it does not."""
        current = self.around.current
        if choice < current:
            return self._because(choice, binding), self._lower_buys(), self._lower_does_not()
        if choice > current:
            return self._because(choice, binding), self._higher_buys(choice), self._higher_does_not(choice)
        return self._unchanged(), (), ()

    def _because(self, choice: int, binding: Wall) -> str:
        tokens = self.around.capacity_tokens(choice)
        held = (
            f"a running request holds {self.held.own_tokens:,.0f} tokens on average "
            f"(spread {self.held.spread_tokens:,.0f})"
        )
        if self.held.shared_tokens >= 1:
            held += f", beside {self.held.shared_tokens:,.0f} of a prefix that all of them share"
        match binding:
            case "kv":
                return (
                    f"{held}; {choice} of them need more than the {tokens:,.0f} tokens that there are in "
                    f"{overflow_ratio(choice, self.held, tokens):.1%} of the time"
                )
            case "demand":
                return f"no more than {self.wanted} were ever asked for at once; KV would take {self.safe}"
            case "latency":
                target = 1000 * (self.policy.token_target_seconds or 0.0)
                return f"with more at a time a token takes longer than the {target:.0f} ms that the policy wants"
            case "memory":
                return "with more the plan cannot say for sure that vLLM would start"
            case "token_budget":
                return f"one step takes {self.around.max_num_batched_tokens} tokens, one for each running request"
            case "state_blocks":
                return f"the model keeps states, and there are blocks for those of {choice} requests"
        raise AssertionError(binding)

    def _unchanged(self) -> str:
        share = preempted_ratio(self.load, self.around.current, self.policy)
        preempted = "" if share is None else f", {share:.1%} of requests were preempted"
        if share is not None and share > 2 * self.policy.preempted_target_ratio and self.wanted > self.around.current:
            return (
                f"KV takes about {self.safe} by what a running request holds, and {self.around.current} are set; yet "
                f"{share:.1%} of requests were preempted: those that begin together need their next blocks together, "
                "and a tenth less may end it"
            )
        if self.wanted <= self.around.current:
            more = f"no more than {self.wanted} were asked for at once{preempted}"
        else:
            more = f"up to {self.wanted} were asked for at once{preempted}, and KV is full at about {self.safe}"
        return f"the curve is flat here: {more}; another value would gain nothing that can be shown"

    @property
    def _ran(self) -> float:
        sums = self.load.slow
        return sums.running / sums.sampled_seconds

    def _lower_buys(self) -> tuple[str, ...]:
        share = preempted_ratio(self.load, self.around.current, self.policy)
        seen = "requests are now" if share is None else f"{share:.1%} of all requests are now"
        return (
            f"no stalls in mid-stream: {seen} preempted and computed again",
            "less work done twice: a preempted request's tokens are computed anew",
        )

    def _lower_does_not(self) -> tuple[str, ...]:
        return (
            f"throughput and latency: KV lets about {self._ran:.0f} run at a time whatever the limit is",
            "the queue: who is not preempted waits for a place instead",
        )

    def _higher_buys(self, choice: int) -> tuple[str, ...]:
        running = min(float(choice), max(self._ran, min(self.wanted, self.safe)))
        fewer = 1 - self._ran / running if running > 0 else 0.0
        return (
            f"a shorter queue: {choice} instead of {self.around.current} run at a time",
            f"fewer engine steps for the same work, {fewer:.0%} at most: a step serves more requests at once",
        )

    def _higher_does_not(self, choice: int) -> tuple[str, ...]:
        lost = self.around.capacity_tokens(self.around.current) - self.around.capacity_tokens(choice)
        fitted = token_seconds(self.load)
        slower = (
            f": {1000 * (fitted[0] + fitted[1] * choice):.0f} ms by the trend seen, now "
            f"{1000 * (fitted[0] + fitted[1] * self.around.current):.0f} ms"
            if fitted is not None and fitted[1] > 0
            else ""
        )
        cost = () if lost < 1 else (f"it for nothing: {lost:,.0f} tokens of KV go to the sampler",)
        return (f"faster tokens: each one takes as long or longer with more beside it{slower}", *cost)
