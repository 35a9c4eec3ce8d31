"""Every engine that a Prometheus knows: from our daemons' series, and where only vLLM was scraped from vLLM's own."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from advisor.capacity import reported_capacity
from advisor.fleet import FlagChange, FleetEngine, FleetGpu, from_load
from advisor.load import EngineLoad
from advisor.policy import Policy
from advisor.report import LIMITERS
from exporter.past import (
    LOOPBACK,
    Key,
    Span,
    Target,
    headroom_targets,
    host_of,
    key_of,
    loads_of,
    selector,
    vllm_targets,
)
from exporter.sources.prometheus import Prometheus, Series
from exporter.sources.vllm import parse_cache_config

_MOST_LOOKS = 2_000
"""At each engine of which only vLLM's series tell: a week is a look every five minutes."""
_LEAST_STEP_SECONDS = 5.0
_SHARE = 0.99
_SAME_RATIO = 0.02
_LEAST_TO_COMPARE = 100.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What a Prometheus tells of a fleet."""

    engines: tuple[FleetEngine, ...]
    gone: tuple[FleetEngine, ...]
    """Those with a past in that time and no present."""
    gpus: tuple[FleetGpu, ...]
    copies: int
    """Engines whose vLLM is scraped as well as watched by a daemon: counted once."""


def read_fleet(
    prometheus: Prometheus,
    policy: Policy,
    *,
    now_seconds: float,
    window_seconds: float,
    progress: Callable[[str], None],
) -> Seen:
    """Read what there is to say of every engine.

    Args:
        prometheus: Where.
        policy: Thresholds.
        now_seconds: Unix time.
        window_seconds: How far back to look.
        progress: Is told what is being read.

    Raises:
        SourceError: See `Prometheus.query`.
    """
    look = _Look(prometheus, now_seconds=now_seconds, window_seconds=window_seconds)
    progress("engines that daemons watch")
    targets = headroom_targets(prometheus, now_seconds - window_seconds, now_seconds)
    ours, gone = _of_daemons(look, targets)
    progress("servers that were scraped")
    servers = vllm_targets(prometheus, now_seconds - window_seconds, now_seconds)
    more, more_gone, copies = _of_vllm(look, servers, ours, policy, progress)
    return Seen(
        engines=(*(engine for _, engine in ours), *more),
        gone=(*gone, *more_gone),
        gpus=_gpus(look),
        copies=copies,
    )


class _Look:
    """Asks one thing of every target at once; of copies, the one that shows most counts."""

    def __init__(self, prometheus: Prometheus, *, now_seconds: float, window_seconds: float) -> None:
        self.prometheus = prometheus
        self.now_seconds = now_seconds
        self.window_seconds = window_seconds
        self.window = f"{max(1, round(window_seconds))}s"
        self.narrowed = selector(prometheus.config.selector)
        self.span = Span(
            start_seconds=now_seconds - window_seconds,
            end_seconds=now_seconds,
            step_seconds=max(_LEAST_STEP_SECONDS, window_seconds / _MOST_LOOKS),
        )

    def ask(self, expression: str) -> tuple[Series, ...]:
        return self.prometheus.query(expression, self.now_seconds)

    def values(self, expression: str, targets: Iterable[Target], *, by: str | None = None) -> "_Values":
        found: dict[tuple[str, Key, str], float] = {}
        at: dict[str, list[Series]] = {}
        for each in self.ask(expression):
            if each.points:
                at.setdefault(each.labels.get("instance", ""), []).append(each)
        for target in targets:
            for each in at.get(target.instance, ()):
                if target.has(each.labels):
                    key = (target.matchers, key_of(each.labels, target.kind), each.labels.get(by, "") if by else "")
                    found[key] = max(each.points[0][1], found.get(key, -math.inf))
        return _Values(found)


class _Values:
    def __init__(self, found: Mapping[tuple[str, Key, str], float]) -> None:
        self._found = found

    def of(self, target: Target, key: Key, by: str = "") -> float | None:
        value = self._found.get((target.matchers, key, by))
        return None if value is None or not math.isfinite(value) else value


def _of_daemons(
    look: _Look, targets: tuple[Target, ...]
) -> tuple[list[tuple[Target, FleetEngine]], tuple[FleetEngine, ...]]:
    def now(name: str) -> _Values:
        return look.values(f"headroom_engine_{name}{look.narrowed}", targets)

    def busy(name: str) -> _Values:
        return look.values(
            f"quantile_over_time({_SHARE}, headroom_engine_{name}{look.narrowed}[{look.window}])", targets
        )

    def counted(name: str) -> _Values:
        return look.values(f"increase(headroom_engine_{name}{look.narrowed}[{look.window}])", targets)

    if not targets:
        return [], ()
    up, capacity, seqs = now("up"), now("kv_capacity_tokens"), now("max_num_seqs")
    typical, confidence = now("typical_request_tokens"), now("advice_confidence_ratio")
    recommended = {name: now(f"recommended_max_num_seqs{name}") for name in ("", "_lower", "_upper")}
    used, running = busy("kv_used_tokens"), busy("requests_running")
    preempted, finished = counted("preemptions_total"), counted("requests_finished_total")
    limiter = look.values(
        f"avg_over_time(headroom_engine_limiter{look.narrowed}[{look.window}])", targets, by="limiter"
    )
    flags = look.ask(f"headroom_engine_recommendation_info{look.narrowed}")
    found, gone = [], []
    for target in targets:
        for key in sorted(target.engines):
            info = {
                each.labels.get("flag", ""): each.labels
                for each in flags
                if target.has(each.labels) and key_of(each.labels, "headroom") == key
            }
            shares = {each: share for each in LIMITERS if (share := limiter.of(target, key, each)) is not None}
            is_up = up.of(target, key)
            engine = FleetEngine(
                where=_where(target),
                engine=target.labels.get("engine", ""),
                model_name=key[0],
                dp_rank=key[1],
                seen_by="headroom",
                is_up=bool(is_up),
                capacity_tokens=capacity.of(target, key),
                used_tokens=used.of(target, key),
                running=running.of(target, key),
                typical_request_tokens=typical.of(target, key),
                finished=finished.of(target, key),
                preempted=preempted.of(target, key),
                limiter_ratio=shares,
                waiting_ratio=sum(shares.get(each, 0.0) for each in ("kv", "max_num_seqs", "compute"))
                if shares
                else None,
                max_num_seqs=seqs.of(target, key),
                recommended=recommended[""].of(target, key),
                recommended_lower=recommended["_lower"].of(target, key),
                recommended_upper=recommended["_upper"].of(target, key),
                confidence_ratio=confidence.of(target, key),
                binding=info.get("max-num-seqs", {}).get("binding"),
                changes=tuple(
                    FlagChange(
                        flag=flag,
                        current=labels.get("current", ""),
                        recommended=labels.get("recommended", ""),
                        binding=labels.get("binding", ""),
                    )
                    for flag, labels in sorted(info.items())
                    if flag != "max-num-seqs" and labels.get("current") != labels.get("recommended")
                ),
            )
            # Before a server has answered for the first time it has no model, and so has a series of its own.
            if is_up is None or (not is_up and not key[0] and len(target.engines) > 1):
                gone.append(engine)
            else:
                found.append((target, engine))
    return found, tuple(gone)


def _of_vllm(
    look: _Look,
    targets: tuple[Target, ...],
    ours: list[tuple[Target, FleetEngine]],
    policy: Policy,
    progress: Callable[[str], None],
) -> tuple[list[FleetEngine], list[FleetEngine], int]:
    if not targets:
        return [], [], 0

    def named(name: str) -> str:
        return selector(f'__name__=~"(ray_)?vllm[:_]{name}"', look.prometheus.config.selector)

    def busy(name: str) -> _Values:
        return look.values(f"quantile_over_time({_SHARE}, {named(name)}[{look.window}])", targets)

    def counted(name: str) -> _Values:
        return look.values(f"increase({named(name)}[{look.window}])", targets)

    up = look.ask(f"up{look.narrowed}")
    present = look.values(named("num_requests_running"), targets)
    total = look.values(named("request_generation_tokens_count"), targets)
    daemons_total = look.values(
        f"headroom_engine_requests_finished_total{look.narrowed}", [target for target, _ in ours]
    )
    usages = [busy(name) for name in ("kv_cache_usage_perc", "gpu_cache_usage_perc")]  # newest name first
    running = busy("num_requests_running")
    preempted, finished = counted("num_preemptions_total"), counted("request_generation_tokens_count")
    prompts, answers = counted("request_prompt_tokens_sum"), counted("request_generation_tokens_sum")
    caches = look.ask(named("cache_config_info"))
    found: list[FleetEngine] = []
    gone: list[FleetEngine] = []
    copies = 0
    taken: set[int] = set()
    for target in targets:
        loads: Mapping[Key, EngineLoad] | None = None
        for key in sorted(target.engines):
            twin = _twin(target, key, total.of(target, key), ours, taken, daemons_total)
            if twin is not None:
                taken.add(twin)
                copies += 1
                continue
            cache = next(
                (
                    parse_cache_config(each.labels, engines=len(target.engines))
                    for each in caches
                    if target.has(each.labels) and each.labels.get("engine", key[1]) == key[1]
                ),
                None,
            )
            reported = reported_capacity(cache) if cache is not None else None
            tokens = reported[0] if reported else None
            share = next((each for usage in usages if (each := usage.of(target, key)) is not None), None)
            ended = finished.of(target, key)
            read, written = prompts.of(target, key), answers.of(target, key)
            typical = (read + written) / ended if ended and read is not None and written is not None else None
            is_present = present.of(target, key) is not None
            is_down = any(target.has(each.labels) and any(value == 0 for _, value in each.points) for each in up)
            engine = FleetEngine(
                where=_where(target),
                engine=target.instance,
                model_name=key[0],
                dp_rank=key[1],
                seen_by="vllm",
                is_up=is_present,
                capacity_tokens=tokens,
                used_tokens=None if tokens is None or share is None else share * tokens,
                running=running.of(target, key),
                typical_request_tokens=typical,
                finished=ended,
                preempted=preempted.of(target, key),
            )
            if not is_present:
                (found if is_down else gone).append(engine)
                continue
            if loads is None:
                progress(f"the load of {engine.engine}")
                loads = loads_of(look.prometheus, target, look.span, policy)
            found.append(from_load(engine, loads.get(key), policy, block_size=cache.block_size if cache else None))
    return found, gone, copies


def _twin(
    target: Target,
    key: Key,
    finished: float | None,
    ours: list[tuple[Target, FleetEngine]],
    taken: set[int],
    daemons_total: _Values,
) -> int | None:
    """Return which engine of a daemon a scraped server is, None for none.

    The same host and port are the same engine, as is the only one of that model on its host; elsewhere (pods have
    addresses of their own) two that have served the same number of requests are.
    """
    same = [
        (place, daemon, engine)
        for place, (daemon, engine) in enumerate(ours)
        if place not in taken and (engine.model_name, engine.dp_rank) == key
    ]
    host, port = host_of(target.instance), target.instance.rpartition(":")[2]
    here = [each for each in same if host_of(each[1].instance) == host]
    by_port = [each for each in (here or same) if each[2].engine.rpartition(":")[2] == port]
    for place, _, engine in by_port:
        is_loopback = host_of(engine.engine) in LOOPBACK
        if engine.engine == target.instance or (here and is_loopback):
            return place
    if len(here) == 1:
        return here[0][0]
    if finished is None or finished < _LEAST_TO_COMPARE:
        return None
    alike = [
        place
        for place, daemon, _ in same
        if (count := daemons_total.of(daemon, key)) is not None and abs(count - finished) <= _SAME_RATIO * finished
    ]
    return alike[0] if len(alike) == 1 else None


def _gpus(look: _Look) -> tuple[FleetGpu, ...]:
    replicas = set(look.prometheus.config.replica_labels) | {"__name__"}
    used = {
        each.labels.get("uuid"): each.points[0][1]
        for each in look.ask(
            f"quantile_over_time({_SHARE}, headroom_gpu_memory_used_bytes{look.narrowed}[{look.window}])"
        )
        if each.points
    }
    found: dict[str, FleetGpu] = {}
    for each in look.ask(f"headroom_gpu_memory_total_bytes{look.narrowed}"):
        uuid = each.labels.get("uuid", "")  # unique in the world, so copies need no more
        if uuid in used and each.points:
            labels = {name: value for name, value in each.labels.items() if name not in replicas}
            found[uuid] = FleetGpu(
                where=host_of(labels.get("instance", "")),
                gpu=labels.get("gpu", ""),
                uuid=uuid,
                total_bytes=each.points[0][1],
                used_bytes=used[uuid],
            )
    return tuple(sorted(found.values(), key=lambda each: (each.where, each.gpu)))


def _where(target: Target) -> str:
    more = [value for name, value in sorted(target.labels.items()) if name not in ("instance", "engine")]
    return " ".join([host_of(target.instance), *more])
