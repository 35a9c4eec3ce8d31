"""Loads to judge: made from pages in a row, from vLLM's scheduler step by step, or directly from sums."""

import math
import random

from advisor.load import DEMAND_BOUNDS, EngineLoad, Lengths, Setting, Sums, observe_load
from advisor.readings import CacheConfig, EngineReading, Histogram
from advisor.simulate import Request, Scheduler, SchedulerConfig

BOUNDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, math.inf)


def counted(values):
    """Return the histogram of these values."""
    return Histogram(
        bounds=BOUNDS,
        cumulative=tuple(float(sum(value <= bound for value in values)) for bound in BOUNDS),
        sum=float(sum(values)),
        count=float(len(values)),
    )


def page(*, running, waiting=0.0, usage=0.5, finished=0, preempted=0, started=1.0, tokens=1_000, name="m", **more):
    """Return what a server shows whose requests all have 400 and 100 tokens."""
    return EngineReading(
        engine="e",
        url="http://127.0.0.1:8000",
        model_name=name,
        dp_rank="0",
        vllm_version="0.32.0",
        max_model_len=2048,
        requests_running=running,
        requests_waiting=waiting,
        kv_usage_ratio=usage,
        cache=CacheConfig(),
        totals={"generation_tokens_total": tokens + 100 * finished, "preemptions_total": preempted},
        histograms={"prompt_tokens": counted([400] * finished), "generation_tokens": counted([100] * finished)},
        started_at_seconds=started,
        **more,
    )


def fed(pages, *, load=None, seconds=1.0, begin=1_000.0, capacity=12_288, max_num_seqs=64, limiter="none"):
    """Fold pages that follow each other."""
    for position, each in enumerate(pages):
        load = observe_load(
            load,
            each,
            capacity_tokens=capacity,
            max_num_seqs=max_num_seqs,
            limiter=limiter,
            now_seconds=begin + seconds * position,
        )
    return load


def told(
    *,
    mean=600.0,
    spread=0.7,
    running=16.0,
    seconds=3_600.0,
    finished=4_000.0,
    demand=200,
    current=64,
    preempted=0.15,
    limited=0.0,
    prompt=500.0,
    output=150.0,
    **more,
):
    """Return the load of an engine whose requests hold so much on average, with a spread relative to that."""
    weights = [0.0] * len(DEMAND_BOUNDS)
    weights[next(place for place, bound in enumerate(DEMAND_BOUNDS) if bound >= demand)] = seconds
    return EngineLoad(
        model_name="m",
        slow=Sums(
            seconds=seconds,
            busy_seconds=seconds,
            samples=seconds / 5,
            sampled_seconds=seconds,
            running=running * seconds,
            used=running * mean * seconds,
            used_squared=seconds * (running * mean**2 + (spread * mean) ** 2),
            finished=finished,
            arrived=finished,
            preempted=preempted * finished,
        ),
        fast=Sums(
            seconds=600.0,
            busy_seconds=600.0,
            samples=120.0,
            sampled_seconds=600.0,
            running=running * 600.0,
            used=running * mean * 600.0,
            finished=finished / seconds * 600.0,
            arrived=finished / seconds * 600.0,
            preempted=preempted * finished / seconds * 600.0,
            spells=min(preempted * finished / seconds * 600.0, 600.0 * finished / (running * seconds)),
        ),
        prompt_tokens=Lengths(bounds=(2 * prompt, math.inf), counts=(finished, 0.0), sum=prompt * finished),
        generation_tokens=Lengths(bounds=(2 * output, math.inf), counts=(finished, 0.0), sum=output * finished),
        demand_seconds=tuple(weights),
        setting=Setting(
            max_num_seqs=current,
            finished=finished,
            preempted=preempted * finished,
            busy_seconds=seconds,
            limited_seconds=limited * seconds,
        ),
        watched_busy_seconds=seconds,
        watched_finished=finished,
        **more,
    )


def conversation(count=400, seed=3):
    """Return (prompt, output) lengths with the means and spreads of a conversation service, halved."""
    chance = random.Random(seed)
    found = []
    for _ in range(count):
        prompt = min(1_900, int(chance.lognormvariate(6.0, 0.9)) + 1)
        output = min(2_040 - prompt, int(chance.lognormvariate(4.6, 0.6)) + 1)
        found.append((prompt, max(1, output)))
    return found


def served(lengths, *, max_num_seqs, num_gpu_blocks=96, poll_seconds=0.5, shared_prefix_tokens=0):
    """Let vLLM's scheduler serve all of these from the start; return (what was seen from outside, the scheduler)."""
    scheduler = Scheduler(
        SchedulerConfig(
            num_gpu_blocks=num_gpu_blocks,
            block_size=128,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=2048,
            max_model_len=2048,
            enable_prefix_caching=shared_prefix_tokens > 0,
        )
    )
    for position, (prompt, output) in enumerate(lengths):
        scheduler.add(
            Request(
                request_id=str(position),
                prompt_tokens=prompt,
                max_tokens=output,
                prefix_group="all" if shared_prefix_tokens else None,
                shared_prefix_tokens=shared_prefix_tokens,
            )
        )
    now, next_poll, load, steps = 0.0, poll_seconds, None, 0
    finished, tokens, preempted, hits = [], 1, 0, 0
    while scheduler.has_work:
        result = scheduler.step()
        batch, output = result.batch, result.output
        if batch is not None and batch.total_num_scheduled_tokens:
            steps += 1
            now += 0.02 + 4e-5 * batch.prefill_tokens + 4e-4 * batch.num_running
        if output is None:
            continue
        finished += [lengths[int(request_id)] for request_id in output.finished]
        tokens += len(output.emitted)
        preempted += len(output.preempt_events)
        hits += output.stats.prefix_cache_hits
        if now < next_poll:
            continue
        next_poll = now + poll_seconds
        stats = output.stats
        reading = page(
            running=stats.num_running_reqs, waiting=stats.num_waiting_reqs, usage=stats.kv_cache_usage, tokens=tokens
        )
        reading.histograms["prompt_tokens"] = counted([prompt for prompt, _ in finished])
        reading.histograms["generation_tokens"] = counted([output for _, output in finished])
        reading.totals.update(preemptions_total=preempted, prefix_cache_hits_total=hits)
        at_limit = stats.num_waiting_reqs and stats.num_running_reqs >= max_num_seqs - 1
        load = observe_load(
            load,
            reading,
            capacity_tokens=num_gpu_blocks * 128,
            max_num_seqs=max_num_seqs,
            limiter="max_num_seqs" if at_limit else "kv" if stats.num_waiting_reqs else "none",
            now_seconds=1_000.0 + now,
        )
    return load, scheduler, steps
