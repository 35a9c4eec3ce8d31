"""Engines that vLLM's scheduler, modelled step by step, serves with made-up load: what a daemon would see of each.

The scheduler is equal to vLLM's own at every recorded step (tests/advisor/test_simulate.py); how long a step takes, and
what is asked for when, is made up. Everything follows from the kind and the seed.
"""

import math
import random
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from advisor.readings import CacheConfig, EngineReading, Histogram
from advisor.simulate import Request, Scheduler, SchedulerConfig
from advisor.step_times import DEFAULT_STEP_TIMES
from bench.pressure.recording import Half, Recording

SECONDS = 2400.0
EVERY_SECONDS = 5.0
"""As the daemon polls by default."""
_BLOCK_SIZE = 16
_MAX_MODEL_LEN = 8192
_TOKENS = (*(digit * 10.0**power for power in range(4) for digit in (1, 2, 5)), math.inf)
_CLIENTS_BEGIN_SECONDS = 30.0
_VERSION = "0.32.0"


@dataclass(frozen=True, kw_only=True, slots=True)
class Lengths:
    """Log-normal numbers of tokens: medians, and deviations of their logarithms."""

    prompt: float
    prompt_deviation: float
    output: float
    output_deviation: float

    @property
    def held(self) -> float:
        """Tokens that a request holds at a moment of its decoding: prompt and half the output, weighed by length."""
        prompt = self.prompt * math.exp(self.prompt_deviation**2 / 2)
        return prompt + self.mean_output * math.exp(self.output_deviation**2) / 2

    @property
    def mean_output(self) -> float:
        """Tokens."""
        return self.output * math.exp(self.output_deviation**2 / 2)

    def draw(self, chance: random.Random) -> tuple[int, int]:
        """Return (prompt, output) of one request."""
        prompt = int(chance.lognormvariate(math.log(self.prompt), self.prompt_deviation)) + 1
        output = int(chance.lognormvariate(math.log(self.output), self.output_deviation)) + 1
        prompt = min(_MAX_MODEL_LEN * 3 // 4, prompt)
        return prompt, min(_MAX_MODEL_LEN - prompt, output)


CONVERSATION = Lengths(prompt=700, prompt_deviation=0.8, output=170, output_deviation=0.7)
REASONING = Lengths(prompt=250, prompt_deviation=0.6, output=1100, output_deviation=0.6)
JOB = Lengths(prompt=1000, prompt_deviation=0.03, output=250, output_deviation=0.1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """What one engine is asked for."""

    lengths: Lengths
    fill: Callable[[float], float] | None
    """Share of the KV cache that would be in use if nothing kept anybody waiting, over seconds; None: clients."""
    clients: int = 0
    """Each sends its next request as soon as the last is answered; the first ones within half a minute."""
    max_num_seqs: int = 256
    blocks: int = 2001

    @property
    def capacity_tokens(self) -> int:
        """Tokens of the KV cache."""
        return (self.blocks - 1) * _BLOCK_SIZE


def _steady(chance: random.Random) -> Load:
    level = chance.uniform(0.4, 1.0)
    return Load(lengths=CONVERSATION, fill=lambda _: level)


def _rising(chance: random.Random) -> Load:
    first, last = chance.uniform(0.2, 0.5), chance.uniform(0.8, 1.2)
    return Load(lengths=CONVERSATION, fill=lambda seconds: first + (last - first) * seconds / SECONDS)


def _wave(chance: random.Random) -> Load:
    period, middle, height = chance.uniform(600, 1800), chance.uniform(0.5, 0.7), chance.uniform(0.15, 0.4)
    return Load(lengths=CONVERSATION, fill=lambda seconds: middle + height * math.sin(2 * math.pi * seconds / period))


def _bursts(chance: random.Random) -> Load:
    level, more = chance.uniform(0.3, 0.6), chance.uniform(1.3, 2.2)
    begins = [chance.uniform(0, SECONDS) for _ in range(4)]
    return Load(
        lengths=CONVERSATION,
        fill=lambda seconds: level * (more if any(0 <= seconds - each < 90 for each in begins) else 1.0),
    )


def _reasoning(chance: random.Random) -> Load:
    level = chance.uniform(0.4, 1.0)
    return Load(lengths=REASONING, fill=lambda _: level, blocks=4001)


def _reasoning_rising(chance: random.Random) -> Load:
    return replace(_rising(chance), lengths=REASONING, blocks=4001)


def _limited(chance: random.Random) -> Load:
    """Return a server whose max_num_seqs keeps a queue out of a cache that would take little more."""
    load = Load(lengths=CONVERSATION, fill=lambda _: 1.2)
    seqs = load.capacity_tokens * chance.uniform(0.4, 0.8) / load.lengths.held
    return replace(load, max_num_seqs=max(2, int(seqs)))


def _job(chance: random.Random) -> Load:
    """Return an offline job that keeps the cache around 95% full with nobody waiting."""
    clients = 40
    share = chance.uniform(0.93, 0.97)
    blocks = int(clients * (JOB.held + _BLOCK_SIZE / 2) / share / _BLOCK_SIZE)
    return Load(lengths=JOB, fill=None, clients=clients, blocks=blocks + 1, max_num_seqs=64)


KINDS: dict[str, Callable[[random.Random], Load]] = {
    "steady": _steady,
    "rising": _rising,
    "wave": _wave,
    "bursts": _bursts,
    "reasoning": _reasoning,
    "reasoning, rising": _reasoning_rising,
    "limited by max-num-seqs": _limited,
    "job, 95 % full": _job,
}


def simulated(kind: str, seed: int, half: Half) -> Recording:
    """Let the scheduler serve one load and return what its pages would have shown."""
    chance = random.Random(f"{kind} {seed}")  # noqa: S311 - made-up load
    load = KINDS[kind](chance)
    engine = _Engine(load, chance)
    return Recording(
        name=f"{kind} {seed}", half=half, load=kind, max_num_seqs=load.max_num_seqs, pages=tuple(engine.pages())
    )


class _Engine:
    """A scheduler, those who ask it, and the counters of its page."""

    def __init__(self, load: Load, chance: random.Random) -> None:
        self._load, self._chance = load, chance
        self._config = SchedulerConfig(
            num_gpu_blocks=load.blocks,
            block_size=_BLOCK_SIZE,
            max_num_seqs=load.max_num_seqs,
            max_num_batched_tokens=2048,
            max_model_len=_MAX_MODEL_LEN,
        )
        self._scheduler = Scheduler(self._config)
        self._lengths: dict[str, tuple[int, int]] = {}
        self._prompts, self._outputs = _Counted(), _Counted()
        self._emitted = 0
        self._usage = 0.0
        self._now = 0.0
        self._next_arrival = 0.0
        self._begun = 0

    def pages(self) -> Iterator[tuple[float, EngineReading]]:
        """Yield (seconds, page) at even intervals."""
        count = 0
        while (due := count * EVERY_SECONDS) <= SECONDS:
            while self._now < due:
                self._step()
            yield due, self._page()
            count += 1

    def _ask(self) -> None:
        prompt, output = self._load.lengths.draw(self._chance)
        name = str(len(self._lengths))
        self._lengths[name] = prompt, output
        self._scheduler.add(Request(request_id=name, prompt_tokens=prompt, max_tokens=output))

    def _let_arrive(self) -> None:
        fill = self._load.fill
        if fill is None:
            while self._next_arrival <= self._now and self._begun < self._load.clients:
                self._ask()
                self._begun += 1
                self._next_arrival += _CLIENTS_BEGIN_SECONDS / self._load.clients
            return
        while self._next_arrival <= self._now:
            if self._next_arrival > 0:
                self._ask()
            wanted = max(0.01, fill(self._next_arrival)) * self._load.capacity_tokens / self._load.lengths.held
            # Little: so many are there at a time if they come at this rate and stay for so long.
            stay = self._load.lengths.mean_output * self._typical_step_seconds(wanted)
            self._next_arrival += self._chance.expovariate(wanted / stay)

    def _typical_step_seconds(self, running: float) -> float:
        """Return what a step takes when so many run, each of whose prompts is computed once in its life."""
        lengths, times = self._load.lengths, DEFAULT_STEP_TIMES
        prompt = lengths.prompt * math.exp(lengths.prompt_deviation**2 / 2)
        return (
            times.base_seconds
            + running * prompt / lengths.mean_output * times.per_prefill_token_seconds
            + running * times.per_decode_request_seconds
            + running * lengths.held * times.per_context_token_seconds
        )

    def _step(self) -> None:
        self._let_arrive()
        if not self._scheduler.has_work:
            self._now = max(self._next_arrival, self._now + 0.001)
            return
        result = self._scheduler.step()
        if result.batch is not None and result.batch.total_num_scheduled_tokens:
            self._now += DEFAULT_STEP_TIMES(result.batch)
        output = result.output
        if output is None:
            return
        self._emitted += len(output.emitted)
        self._usage = output.stats.kv_cache_usage
        for name in output.finished:
            prompt, answer = self._lengths[name]
            self._prompts.add(prompt)
            self._outputs.add(answer)
            if self._load.clients:
                self._ask()

    def _page(self) -> EngineReading:
        config = self._config
        return EngineReading(
            engine="simulated",
            url="http://127.0.0.1:8000",
            model_name="made up",
            dp_rank="0",
            vllm_version=_VERSION,
            max_model_len=_MAX_MODEL_LEN,
            requests_running=float(self._scheduler.num_running),
            requests_waiting=float(self._scheduler.num_waiting),
            kv_usage_ratio=self._usage,
            cache=CacheConfig(
                num_gpu_blocks=config.num_gpu_blocks,
                block_size=_BLOCK_SIZE,
                kv_cache_size_tokens=config.kv_cache_tokens,
            ),
            totals={
                "generation_tokens_total": float(self._emitted),
                "preemptions_total": float(self._scheduler.num_preemptions),
            },
            histograms={"prompt_tokens": self._prompts.histogram(), "generation_tokens": self._outputs.histogram()},
            started_at_seconds=0.0,
        )


class _Counted:
    """A histogram under way."""

    def __init__(self) -> None:
        self._counts = [0] * len(_TOKENS)
        self._sum = 0

    def add(self, tokens: int) -> None:
        self._counts[bisect_left(_TOKENS, tokens)] += 1
        self._sum += tokens

    def histogram(self) -> Histogram:
        cumulative, so_far = [], 0.0
        for each in self._counts:
            so_far += each
            cumulative.append(so_far)
        return Histogram(bounds=_TOKENS, cumulative=tuple(cumulative), sum=float(self._sum), count=so_far)
