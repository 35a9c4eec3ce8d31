"""A made-up past of vLLM servers, as pages that follow each other: for a daemon to watch and for a store to keep."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from advisor.past import PastMoment, replayed
from advisor.policy import Policy
from exporter.sources.vllm import Server, parse_page, read_engines

BOUNDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, math.inf)
WAITS = (0.3, 1.0, 5.0, 30.0, math.inf)


def _le(bound):
    return "+Inf" if math.isinf(bound) else str(float(bound))


@dataclass
class MadeUpServer:
    """A server whose numbers wander; its pages are vLLM's."""

    seed: int = 1
    model: str = "m"
    capacity: int = 12_288
    most: int = 64
    typical: float = 600.0
    demand: float = 15.0
    preempted_ratio: float = 0.0
    started: float = 0.0
    totals: dict = field(default_factory=dict)

    def __post_init__(self):
        self.chance = random.Random(self.seed)
        self.restart(self.started)

    def restart(self, at):
        self.started = at
        self.running = self.waiting = 0
        self.usage = 0.0
        self.totals = dict.fromkeys(("generation_tokens", "prompt_tokens", "num_preemptions"), 0.0)
        self.lengths = {name: [] for name in ("request_prompt_tokens", "request_generation_tokens")}
        self.counts = {name: [0] * len(BOUNDS) for name in self.lengths}
        self.sums = dict.fromkeys(self.lengths, 0.0)
        self.waits, self.wait_sum = [0] * len(WAITS), 0.0
        self.tokens, self.token_seconds = 0.0, 0.0

    def pass_time(self, seconds):
        """Let some requests come and go."""
        chance = self.chance
        wanted = max(0, round(chance.gauss(self.demand, self.demand / 4)))
        self.running = min(self.most, wanted)
        self.waiting = wanted - self.running
        held = sum(self.typical * chance.uniform(0.4, 1.6) for _ in range(self.running))
        self.usage = min(1.0, held / self.capacity)
        for _ in range(round(self.running * seconds / 10)):
            prompt, output = chance.randint(50, 900), chance.randint(5, 400)
            for name, value in (("request_prompt_tokens", prompt), ("request_generation_tokens", output)):
                place = next(place for place, bound in enumerate(BOUNDS) if value <= bound)
                self.counts[name][place] += 1
                self.sums[name] += value
            self.totals["prompt_tokens"] += prompt
            self.totals["generation_tokens"] += output
            self.totals["num_preemptions"] += chance.random() < self.preempted_ratio
            wait = chance.uniform(0.0, 2.0)
            self.waits[next(place for place, bound in enumerate(WAITS) if wait <= bound)] += 1
            self.wait_sum += wait
            self.tokens += output
            self.token_seconds += output * (0.02 + 0.001 * self.running)

    def samples(self) -> Iterator[tuple[str, dict[str, str], float]]:
        """Yield (name, labels, value) of every line of the page."""
        same = {"model_name": self.model, "engine": "0"}
        yield "vllm:num_requests_running", same, self.running
        yield "vllm:num_requests_waiting", same, self.waiting
        yield "vllm:kv_cache_usage_perc", same, self.usage
        for name, value in self.totals.items():
            yield f"vllm:{name}_total", same, value
        for name, counts in self.counts.items():
            yield from _histogram(f"vllm:{name}", same, BOUNDS, counts, self.sums[name])
        yield from _histogram("vllm:request_queue_time_seconds", same, WAITS, self.waits, self.wait_sum)
        yield from _histogram("vllm:inter_token_latency_seconds", same, (math.inf,), [self.tokens], self.token_seconds)
        blocks = {"block_size": "16", "num_gpu_blocks": str(self.capacity // 16), "engine": "0"}
        yield "vllm:cache_config_info", {**blocks, "kv_cache_size_tokens": str(self.capacity)}, 1.0
        yield "process_start_time_seconds", {}, self.started

    def page(self):
        """Return the page as it is now."""
        return "".join(f"{sample(name, labels)} {value}\n" for name, labels, value in self.samples())

    def lines(self, at, **labels):
        """Return the same in the text format with the moment in milliseconds, as a store imports it."""
        return "".join(
            f"{sample(name, {**own, **labels})} {value} {round(at * 1000)}\n" for name, own, value in self.samples()
        )


def _histogram(name, labels, bounds, counts, total):
    so_far = 0.0
    for bound, count in zip(bounds, counts, strict=True):
        so_far += count
        yield f"{name}_bucket", {**labels, "le": _le(bound)}, so_far
    yield f"{name}_sum", labels, total
    yield f"{name}_count", labels, so_far


def sample(name, labels):
    """Return the name and labels of a sample as a page shows them."""
    inside = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return f"{name}{{{inside}}}" if inside else name


def watched_live(pages, *, max_num_seqs=None, holes=60.0):
    """Return what a daemon knows that saw these pages (moment, text) when they were there."""
    moments, last = [], None
    for at, text in pages:
        (reading,) = read_engines(parse_page(text), Server(), engine="e", url="http://e")
        moments.append(
            PastMoment(
                wall_seconds=at,
                continues=last is not None and at - last <= holes,
                reading=reading,
                capacity_tokens=reading.cache.kv_cache_size_tokens,
                max_num_seqs=max_num_seqs,
            )
        )
        last = at
    return replayed(None, moments, Policy())


def openmetrics(lines):
    """Return lines of the text format as OpenMetrics, with seconds, as promtool wants them to make blocks of."""

    # promtool cares about neither types nor families; it wants the samples in order of time and an end.
    def seconds(line):
        head, _, millis = line.rpartition(" ")
        return f"{head} {int(millis) / 1000}"

    every = [seconds(line) for piece in lines for line in piece.splitlines()]
    return "\n".join([*every, "# EOF", ""])
