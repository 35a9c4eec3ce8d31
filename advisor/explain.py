"""Why a vLLM process holds the memory that it holds: every byte of its GPUs by name, and what that means in words.

What vLLM printed while it started (`advisor.start_log`) wins over what follows from reported figures, and that over
what is estimated from the model. The words are vLLM's own for its flags and memory parts.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from advisor.advise import Placed, holders_on, placements, server_name
from advisor.calibration import overheads
from advisor.capacity import cuda_total_bytes, reported_capacity
from advisor.estimate import Estimate, Origin, exactly
from advisor.gpu import EngineShare, components, share_parts
from advisor.memory import GRAPHS_IN_BUDGET_SINCE
from advisor.plan import EnginePlan
from advisor.readings import EngineProcess, Gpu
from advisor.report import COMPONENTS
from advisor.snapshot import Snapshot
from advisor.start_log import RankMemory, StartError, StartLog
from advisor.units import GIB, MIB, gib
from advisor.versions import Version, parse_version

_DEVICE_SENTENCES = {
    "foreign": "Held by processes that are no vLLM server.",
    "driver_reserved": "Kept by the driver and its firmware: no program can have it.",
    "free": "Free: what a new allocation, of this engine or another process, can still take.",
}
"""The parts that are no engine's, in words."""
_OUT_OF_SIGHT = "Held by processes that are no vLLM server, or not in sight here: an engine may be among these."
_IDLE_BLOCKS = "KV blocks taken at start and held by no request: room for more requests, for nothing else."
_NO_LOG = "no server process was found on this host whose log could be read"
_NOTHING = exactly(0.0)

Figures = Mapping[str, Estimate]
"""Bytes of one engine on one GPU by name: weights, kv_cache, cuda_graphs, activation_peak, non_torch, cuda_context;
those that cannot be told are not in it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One named part of a GPU's memory, or of a CPU engine's KV cache."""

    name: str
    """One of `COMPONENTS`."""
    engine: str
    """Whose it is; empty for what is no engine's."""
    bytes: int
    lower_bytes: int
    upper_bytes: int
    origin: Origin
    sentence: str


@dataclass(frozen=True, kw_only=True, slots=True)
class UtilizationChoice:
    """What another ``--gpu-memory-utilization`` would mean."""

    gpu_memory_utilization: float
    gives_back_bytes: int
    """Of each of the engine's GPUs."""
    kv_cache_bytes: int
    """Of each of the engine's GPUs; negative where not even the rest fits."""
    kv_tokens: int
    full_context_concurrency: float
    """Requests of max_model_len that fit at once."""
    starts: bool
    """Whether vLLM would start: it refuses a KV cache that holds not one request of max_model_len."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuExplanation:
    """Where one GPU's memory is."""

    gpu: str
    uuid: str
    name: str | None
    total_bytes: int
    parts: tuple[Part, ...]
    """They add up to ``total_bytes`` exactly; none where the driver does not tell who holds what."""
    why_no_parts: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineExplanation:
    """Why one engine holds what it holds."""

    engine: str
    """Empty where a start-up log is all there is."""
    model_name: str | None
    vllm_version: str | None
    kv_tokens: float | None
    kv_used_tokens: float | None
    start_log: str
    """Where it was read, or why not."""
    parts: tuple[Part, ...]
    """What no GPU's list shows: the KV cache of vLLM's CPU build, the figures of a log without its server, or what an
    engine should hold where the driver does not tell what it holds."""
    sentences: tuple[str, ...]
    choices: tuple[UtilizationChoice, ...]
    failed: bool
    """Whether it does not answer, or its last start failed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """Everything that is explained at one moment."""

    gpus: tuple[GpuExplanation, ...]
    engines: tuple[EngineExplanation, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Share:
    """One engine on one GPU."""

    gpu: Gpu
    server: EngineProcess
    engine: str
    placed: Placed | None
    held_bytes: float | None
    """None where the driver does not tell."""
    figures: Figures
    rank: RankMemory | None
    usage_ratio: float


def explain(snapshot: Snapshot) -> Explanation:
    """Explain every GPU and every engine of a snapshot."""
    placed = placements(snapshot)
    shares: list[_Share] = []
    gpus = []
    for gpu in snapshot.gpus:
        holders, foreign_bytes = holders_on(snapshot, gpu, placed)
        here = [_share(snapshot, gpu, server, engine, held) for server, engine, held in holders]
        shares += here
        in_sight = not (snapshot.hidden_on(gpu) or snapshot.unowned_on(gpu))
        explained = _explain_gpu(gpu, here, foreign_bytes, in_sight=in_sight)
        if explained is not None:
            gpus.append(explained)
    engines = [_explain_engine(snapshot, each, [one for one in shares if one.placed is each]) for each in placed]
    engines += [
        _explain_silent(snapshot, target.engine, target.url, target.failing)
        for target in snapshot.targets
        if not snapshot.readings_of(target.engine)
    ]
    given = snapshot.start_log_of(None)
    if given is not None and given.log is not None and not engines:
        engines.append(_explain_log(given.log, given.found))
    return Explanation(gpus=tuple(gpus), engines=tuple(engines))


def _explain_gpu(
    gpu: Gpu, shares: list[_Share], foreign_bytes: float | None, *, in_sight: bool
) -> GpuExplanation | None:
    """Return every part of one GPU's memory, None where the driver does not tell its memory.

    Args:
        gpu: The GPU.
        shares: The engines on it.
        foreign_bytes: What other processes hold, None where that is not told.
        in_sight: Whether everybody who holds memory there is known.
    """
    if gpu.memory_total_bytes is None or gpu.memory_used_bytes is None or gpu.memory_free_bytes is None:
        return None
    planned = [_planned(share) for share in shares]
    splits = [share_parts(plan) for plan in planned]
    together = components(gpu, planned, foreign_bytes)
    if together is None:
        return GpuExplanation(
            gpu=gpu.gpu,
            uuid=gpu.uuid,
            name=gpu.name,
            total_bytes=gpu.memory_total_bytes,
            parts=(),
            why_no_parts=f"{gib(gpu.memory_used_bytes)} are in use; the driver does not tell by whom.",
        )
    parts: list[Part] = []
    for name in COMPONENTS:
        if name in _DEVICE_SENTENCES:
            sentence = _OUT_OF_SIGHT if name == "foreign" and not in_sight else _DEVICE_SENTENCES[name]
            parts.append(_device_part(name, together[name], sentence))
            continue
        own = [split[name] for split in splits]
        for share, size in zip(shares, own, strict=True):
            # Where processes claim more than there is, all engines' parts were cut alike.
            parts.append(_engine_part(share, name, size * together[name] / sum(own) if sum(own) else 0.0))
    return GpuExplanation(
        gpu=gpu.gpu,
        uuid=gpu.uuid,
        name=gpu.name,
        total_bytes=gpu.memory_total_bytes,
        parts=_whole_bytes(parts, gpu.memory_total_bytes),
    )


def figures_of(theory: EnginePlan | None, rank: RankMemory | None, *, pool_bytes: float | None) -> Figures:
    """Return the bytes of one engine on one GPU by name, from the best source of each.

    Args:
        theory: What the model, the flags and the device say.
        rank: What the worker on this GPU printed.
        pool_bytes: The KV pool as its number of blocks gives it.
    """
    figures: dict[str, Estimate] = {}
    plan = theory.memory if theory else None
    if plan is not None:
        figures["weights"] = plan.weights
        figures["kv_cache"] = plan.kv_cache
        figures["cuda_graphs"] = plan.cuda_graphs
        figures["activation_peak"] = plan.activation_peak
        figures["non_torch"] = plan.non_torch
    if plan is not None or rank is not None:
        figures["cuda_context"] = overheads.CUDA_CONTEXT
    if rank is not None:
        if rank.cuda_graph_estimated_bytes is not None:
            figures["cuda_graphs"] = _vllms_estimate(rank.cuda_graph_estimated_bytes)
        printed = {
            "weights": rank.weights_bytes,
            "kv_cache": rank.kv_cache_bytes,
            "cuda_graphs": rank.cuda_graph_bytes,
            "activation_peak": rank.activation_peak_bytes,
            "non_torch": rank.non_torch_bytes,
        }
        figures |= {
            name: exactly(max(0.0, float(size)), Origin.REPORTED) for name, size in printed.items() if size is not None
        }
    if pool_bytes is not None:
        figures["kv_cache"] = exactly(pool_bytes)
    return figures


def utilization_choices(
    *,
    gpu_memory_utilization: float,
    total_bytes: float,
    kv_cache_bytes: float,
    kv_tokens: float,
    max_model_len: int,
) -> tuple[UtilizationChoice, ...]:
    """Return what lower settings would give back and cost: each tenth below, and the lowest hundredth that starts.

    All else stays as it is, so every byte given back is a byte of KV cache less; tokens are in proportion to it.
    """
    current = round(gpu_memory_utilization, 4)

    def at(utilization: float) -> UtilizationChoice:
        gives_back = (current - utilization) * total_bytes
        left = kv_cache_bytes - gives_back
        tokens = max(0.0, kv_tokens * left / kv_cache_bytes)
        return UtilizationChoice(
            gpu_memory_utilization=utilization,
            gives_back_bytes=round(gives_back),
            kv_cache_bytes=round(left),
            kv_tokens=int(tokens),
            full_context_concurrency=tokens / max_model_len,
            starts=tokens >= max_model_len,
        )

    if kv_cache_bytes <= 0 or kv_tokens <= 0 or max_model_len <= 0 or total_bytes <= 0:
        return ()
    spare = kv_cache_bytes * (1 - max_model_len / kv_tokens)
    lowest = math.ceil(100 * (current - spare / total_bytes) - 1e-9) / 100
    tenths = [tenth / 10 for tenth in range(9, 0, -1) if tenth / 10 < current]
    wanted = {*tenths, *([lowest] if 0 < lowest < current else [])}
    choices = [at(utilization) for utilization in sorted(wanted, reverse=True)]
    refused = [choice for choice in choices if not choice.starts]
    return tuple([choice for choice in choices if choice.starts] + refused[:1])


def _share(
    snapshot: Snapshot, gpu: Gpu, server: EngineProcess, placed: Placed | None, held_bytes: float | None
) -> _Share:
    found = snapshot.start_log_of(server)
    rank = None
    if found is not None and found.log is not None:
        pids = [process.pid for process in snapshot.processes_on(gpu) if process.pid in server.pids]
        rank = found.log.on_gpu(pids, snapshot.gpus_of(server).index(gpu))
    reading = placed.reading if placed else None
    asleep = bool(reading and reading.sleeping)
    return _Share(
        gpu=gpu,
        server=server,
        engine=server_name(snapshot, server, placed),
        placed=placed,
        held_bytes=held_bytes,
        # While it loads, the parts are not there yet; asleep, they are gone.
        figures={} if placed is None or asleep else figures_of(placed.theory, rank, pool_bytes=_pool(placed, rank)),
        rank=rank,
        usage_ratio=(reading.kv_usage_ratio or 0.0) if reading else 0.0,
    )


def _pool(placed: Placed, rank: RankMemory | None) -> float | None:
    """Return the KV pool's bytes on one GPU by its number of blocks, None where that cannot be told.

    Where vLLM printed what was available and the blocks of our layout do not fill it, vLLM's figure is the better one.
    """
    cache, theory = placed.reading.cache, placed.theory
    if theory is None or cache.num_gpu_blocks is None:
        return None
    pool = float(cache.num_gpu_blocks * theory.layout.bytes_per_block)
    printed = rank.kv_cache_bytes if rank else None
    overridden = cache.num_gpu_blocks_override is not None or theory.flags.num_gpu_blocks_override is not None
    if printed is not None and not overridden and abs(printed - pool) > max(16 * MIB, 0.01 * printed):
        return None
    return pool


def _vllms_estimate(size_bytes: float) -> Estimate:
    """Bound vLLM's own estimate of its CUDA graphs: they have taken from a tenth of it to twice as much."""
    return Estimate(lower=0.1 * size_bytes, expected=size_bytes, upper=2.0 * size_bytes)


def _planned(share: _Share) -> EngineShare:
    """Dress a share for `components`, which cuts what exceeds the bytes held."""
    figures = share.figures
    pool = _expected(figures, "kv_cache")
    parts = {
        "weights": _expected(figures, "weights"),
        "kv_used": pool * share.usage_ratio,
        "kv_idle": pool * (1 - share.usage_ratio),
        "cuda_graphs": _expected(figures, "cuda_graphs"),
        "engine_other": _expected(figures, "cuda_context") + _expected(figures, "non_torch"),
        "activation_reserve": _expected(figures, "activation_peak"),
    }
    return EngineShare(
        engine=share.engine, held_bytes=share.held_bytes, entitled=exactly(share.held_bytes or 0.0), parts=parts
    )


def _expected(figures: Figures, name: str) -> float:
    return figures.get(name, _NOTHING).expected


def _whole_bytes(parts: list[Part], total_bytes: int) -> tuple[Part, ...]:
    """Give the bytes that rounding lost or won to the largest part, so that the sum is the total."""
    odd = total_bytes - sum(part.bytes for part in parts)
    largest = max(range(len(parts)), key=lambda position: parts[position].bytes)
    part = parts[largest]
    mended = part.bytes + odd
    parts[largest] = replace(
        part,
        bytes=mended,
        lower_bytes=min(part.lower_bytes, mended),
        upper_bytes=max(part.upper_bytes, mended),
    )
    return tuple(parts)


def _part(name: str, size: float, bounds: Estimate, sentence: str, *, engine: str = "") -> Part:
    """Put a part between the bounds of its estimate, which what is really held may have cut."""
    return Part(
        name=name,
        engine=engine,
        bytes=round(size),
        lower_bytes=min(round(bounds.lower), round(size)),
        upper_bytes=max(round(bounds.upper), round(size)),
        origin=bounds.origin,
        sentence=sentence,
    )


def _device_part(name: str, size: float, sentence: str) -> Part:
    origin = Origin.DERIVED if name == "driver_reserved" else Origin.REPORTED
    return _part(name, size, exactly(size, origin), sentence)


def _should_hold(share: _Share) -> tuple[Part, ...]:
    """Return what the model, the flags and the log say, where the driver says nothing of what is held."""
    planned = _planned(share).parts
    told = ("weights", "kv_used", "kv_idle", "cuda_graphs")  # the rest is told from what is held
    return tuple(_engine_part(share, name, planned[name]) for name in told)


def _engine_part(share: _Share, name: str, size: float) -> Part:
    bounds, sentence = _bounds_and_sentence(share, name, size)
    return _part(name, size, bounds, sentence, engine=share.engine)


def _used_blocks(usage_ratio: float) -> str:
    return f"KV blocks that running requests hold: {usage_ratio:.1%} of the pool."


def _bounds_and_sentence(share: _Share, name: str, size: float) -> tuple[Estimate, str]:
    figures, usage = share.figures, share.usage_ratio
    if name in ("kv_used", "kv_idle"):
        pool = figures.get("kv_cache", _NOTHING)
        ratio = usage if name == "kv_used" else 1 - usage
        bounds = pool.mapped(lambda size: ratio * size)
        if name == "kv_used":
            return bounds, _used_blocks(usage)
        return bounds, _IDLE_BLOCKS
    if name == "weights":
        weights = figures.get("weights", _NOTHING)
        how = "as vLLM measured it while loading" if weights.origin is Origin.REPORTED else "from the model's files"
        return weights, f"This GPU's share of the model, {how}."
    if name == "cuda_graphs":
        graphs = figures.get("cuda_graphs", _NOTHING)
        how = "as vLLM measured them" if graphs.origin is Origin.REPORTED else "as such models take"
        return graphs, f"Captured CUDA graphs, {how}; --enforce-eager does without them and is slower."
    rest = _remainder(share)
    other = _sum(figures, "cuda_context", "non_torch")
    if name == "activation_reserve":
        peak = figures.get("activation_peak", _NOTHING)
        bounds = Estimate(
            lower=min(size, max(0.0, rest.lower - other.upper)),
            expected=size,
            upper=max(size, min(peak.upper, rest.upper - other.lower)),
        )
        whole = f" (profiled at {gib(peak.expected)})" if peak.expected else ""
        return bounds, f"Working memory of the largest step{whole}, as far as PyTorch keeps it now."
    if not figures:
        return exactly(size, Origin.REPORTED), _why_unknown(share)
    bounds = Estimate(
        lower=min(size, max(0.0, rest.lower - figures.get("activation_peak", _NOTHING).upper)),
        expected=size,
        upper=max(size, min(rest.upper, max(size, other.upper))),
    )
    known = figures.get("non_torch")
    reported = known is not None and known.origin is Origin.REPORTED
    told = f", {gib(known.expected)} of it non-torch memory that vLLM measured" if known and reported else ""
    return bounds, f"CUDA context, loaded kernels, communication buffers and all that no other part explains{told}."


def _remainder(share: _Share) -> Estimate:
    """Return what the process holds beside weights, KV cache and graphs."""
    assert share.held_bytes is not None
    return exactly(share.held_bytes).minus(_sum(share.figures, "weights", "kv_cache", "cuda_graphs"))


def _sum(figures: Figures, *names: str) -> Estimate:
    chosen = [figures[name] for name in names if name in figures]
    return Estimate(
        lower=sum(each.lower for each in chosen),
        expected=sum(each.expected for each in chosen),
        upper=sum(each.upper for each in chosen),
    )


def _why_unknown(share: _Share) -> str:
    if share.placed is None:
        return "The server does not answer, or is still loading: its parts cannot be told."
    if share.placed.reading.sleeping:
        return "The engine sleeps: its weights and its KV cache are off the GPU; what it holds is what remains."
    return f"The engine's parts cannot be told: {share.placed.no_theory}, and no start-up log is readable."


def _explain_engine(snapshot: Snapshot, placed: Placed, shares: list[_Share]) -> EngineExplanation:
    reading = placed.reading
    found = snapshot.start_log_of(placed.server)
    log = found.log if found else None
    tokens = _tokens(placed, log)
    used = None if tokens is None or reading.kv_usage_ratio is None else tokens * reading.kv_usage_ratio
    share = max(shares, key=lambda each: each.held_bytes or 0.0) if shares else None
    parts: tuple[Part, ...] = ()
    choices: tuple[UtilizationChoice, ...] = ()
    sentences: list[str] = []
    if share is not None and share.figures:
        parts = _should_hold(share) if share.held_bytes is None else ()
        choices = _choices(share, tokens, reading.max_model_len)
        version = parse_version(reading.vllm_version)
        told = (
            _why_so_much(share, len(shares)),
            _what_is_idle(share, tokens, used),
            _outside_the_budget(share, version),
            _graphs_set_aside(share, tokens, version),
            _what_lower_means(choices, _settings(share)),
        )
        sentences += [sentence for sentence in told if sentence is not None]
    elif share is not None:
        sentences.append(_why_unknown(share))
    elif _on_cpu(placed, log):
        parts, sentences = _cpu(placed, log, tokens, used)
    elif log is not None and placed.server is None:
        alone = _explain_log(log, "")
        parts, sentences = alone.parts, list(alone.sentences)
    else:
        sentences.append(f"No GPU of this engine can be seen from here: {placed.no_theory or 'NVML lists none'}.")
    return EngineExplanation(
        engine=reading.engine,
        model_name=reading.model_name,
        vllm_version=reading.vllm_version or (log.version if log else None),
        kv_tokens=tokens,
        kv_used_tokens=used,
        start_log=found.found if found else _NO_LOG,
        parts=parts,
        sentences=tuple(sentences),
        choices=choices,
        failed=False,
    )


def _tokens(placed: Placed, log: StartLog | None) -> float | None:
    reported = reported_capacity(placed.reading.cache)
    if reported is not None and reported[1] is Origin.REPORTED:
        return reported[0]
    if log is not None and log.kv_tokens is not None:
        return float(log.kv_tokens)
    if reported is not None:
        return reported[0]
    return placed.theory.kv_tokens.expected if placed.theory else None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Settings:
    utilization: float | None
    total_bytes: float | None
    pinned: str | None
    """The flag that sizes the KV cache instead of the utilization."""

    @property
    def budget_bytes(self) -> float | None:
        if self.utilization is None or self.total_bytes is None:
            return None
        return self.utilization * self.total_bytes


def _settings(share: _Share) -> _Settings:
    """Return what sized this engine: as it reports, else as its command line and its release say."""
    assert share.placed is not None
    cache, flags, theory = share.placed.reading.cache, share.server.flags, share.placed.theory
    pinned = None
    if cache.num_gpu_blocks_override is not None or flags.num_gpu_blocks_override is not None:
        pinned = "--num-gpu-blocks-override"
    elif cache.kv_cache_memory_bytes is not None or flags.kv_cache_memory_bytes is not None:
        pinned = "--kv-cache-memory-bytes"
    given = (cache.gpu_memory_utilization, flags.gpu_memory_utilization)
    utilization = next((each for each in given if each is not None), None)
    if utilization is None and theory is not None:
        utilization = theory.flags.gpu_memory_utilization
    printed = share.rank.total_bytes if share.rank else None
    return _Settings(utilization=utilization, total_bytes=printed or cuda_total_bytes(share.gpu), pinned=pinned)


def _choices(share: _Share, tokens: float | None, max_model_len: int | None) -> tuple[UtilizationChoice, ...]:
    settings = _settings(share)
    pool = share.figures.get("kv_cache")
    if settings.pinned or None in (settings.utilization, settings.total_bytes, tokens, max_model_len) or pool is None:
        return ()
    assert settings.utilization is not None
    assert settings.total_bytes is not None
    assert tokens is not None
    assert max_model_len is not None
    return utilization_choices(
        gpu_memory_utilization=settings.utilization,
        total_bytes=settings.total_bytes,
        kv_cache_bytes=pool.expected,
        kv_tokens=tokens,
        max_model_len=max_model_len,
    )


def _why_so_much(share: _Share, num_gpus: int) -> str:
    settings, figures = _settings(share), share.figures
    each = f"each of its {num_gpus} GPUs" if num_gpus > 1 else f"GPU {share.gpu.gpu}"
    weights, pool = figures.get("weights"), figures.get("kv_cache")
    model = f" for {gib(weights.expected)} of weights" if weights else ""
    if share.held_bytes is None:
        untold = f"What it holds on {each} the driver does not tell"
        held = f"{untold}; the parts named here are what it should hold. It is so much"
    else:
        held = f"It holds {gib(share.held_bytes)} on {each}{model}"
    cache = f"{gib(pool.expected)} of KV cache" if pool else "its KV cache"
    if settings.pinned:
        return f"{held}, because {settings.pinned} gives it {cache}, taken in full at start."
    if settings.budget_bytes is None:
        return f"{held}, because vLLM fills its budget with KV cache: {cache}, taken in full at start."
    budget = f"({settings.utilization:g}) x {gib(settings.total_bytes or 0)} = {gib(settings.budget_bytes)}"
    return (
        f"{held}, because vLLM takes gpu_memory_utilization {budget} as its budget, and fills what the weights and "
        f"their work leave of it with {cache}, taken in full at start, whether requests need it or not."
    )


def _what_is_idle(share: _Share, tokens: float | None, used: float | None) -> str | None:
    pool = share.figures.get("kv_cache")
    if pool is None:
        return None
    idle = pool.expected * (1 - share.usage_ratio)
    counted = f" ({used:,.0f} of {tokens:,.0f} tokens)" if tokens is not None and used is not None else ""
    return (
        f"Of the KV cache {gib(pool.expected - idle)}{counted} is in use now, {gib(idle)} is preallocated and idle. "
        "Requests move memory between these two; they do not change what the process holds."
    )


def _outside_the_budget(share: _Share, version: Version | None) -> str | None:
    budget = _settings(share).budget_bytes
    if budget is None or share.held_bytes is None or share.held_bytes <= budget + 64 * MIB:
        return None
    graphs = version is not None and version < GRAPHS_IN_BUDGET_SINCE
    outside = "the CUDA context and CUDA graphs stand" if graphs else "the CUDA context stands"
    return f"That is {gib(share.held_bytes - budget)} more than the budget: {outside} outside it."


def _graphs_set_aside(share: _Share, tokens: float | None, version: Version | None) -> str | None:
    """Tell what a wrong estimate of the CUDA graphs costs, where vLLM printed both figures and it is worth telling."""
    rank, pool = share.rank, share.figures.get("kv_cache")
    if rank is None or rank.cuda_graph_bytes is None or rank.cuda_graph_estimated_bytes is None or pool is None:
        return None
    unused = rank.cuda_graph_estimated_bytes - rank.cuda_graph_bytes
    if unused < 0.25 * GIB or version is None or version < GRAPHS_IN_BUDGET_SINCE:
        return None
    worth = f", room for {tokens * unused / pool.expected:,.0f} tokens" if tokens and pool.expected else ""
    aside, taken = gib(rank.cuda_graph_estimated_bytes), gib(rank.cuda_graph_bytes)
    return (
        f"vLLM set {aside} aside for CUDA graphs and used {taken}: {gib(unused)}{worth}, that a higher "
        "--gpu-memory-utilization or VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS=0 would give to the KV cache."
    )


def _what_lower_means(choices: tuple[UtilizationChoice, ...], settings: _Settings) -> str | None:
    if settings.pinned:
        return f"--gpu-memory-utilization has no effect here: {settings.pinned} sizes the KV cache."
    if not choices:
        return None
    least = min((each for each in choices if each.starts), key=lambda each: each.gpu_memory_utilization, default=None)
    if least is None:
        return "No lower --gpu-memory-utilization starts: its KV cache would not hold one request of full length."
    return (
        f"--gpu-memory-utilization {least.gpu_memory_utilization:g} is the least that starts: it gives back "
        f"{gib(least.gives_back_bytes)} and leaves {least.kv_tokens:,} tokens, "
        f"{least.full_context_concurrency:.2f} requests of full length."
    )


def _on_cpu(placed: Placed, log: StartLog | None) -> bool:
    version = placed.reading.vllm_version or (log.version if log else None) or ""
    return "cpu" in version or (placed.theory is not None and placed.theory.memory is None)


def _cpu(
    placed: Placed, log: StartLog | None, tokens: float | None, used: float | None
) -> tuple[tuple[Part, ...], list[str]]:
    """Explain vLLM's CPU build, whose KV cache is main memory of a size that is given and not found."""
    begin = "It runs on the CPU and holds no GPU memory."
    rank = log.ranks[0] if log and log.ranks else None
    pool = _pool(placed, rank)
    origin = Origin.DERIVED
    if pool is None and rank is not None and rank.kv_cache_bytes is not None:
        pool, origin = float(rank.kv_cache_bytes), Origin.REPORTED
    if pool is None:
        return (), [f"{begin} The size of its KV cache cannot be told: {placed.no_theory}."]
    usage = placed.reading.kv_usage_ratio or 0.0
    engine = placed.reading.engine
    parts = (
        _part(
            "kv_used",
            round(pool) - round(pool * (1 - usage)),
            exactly(pool * usage, origin),
            _used_blocks(usage),
            engine=engine,
        ),
        _part(
            "kv_idle",
            pool * (1 - usage),
            exactly(pool * (1 - usage), origin),
            _IDLE_BLOCKS,
            engine=engine,
        ),
    )
    counted = f", {tokens:,.0f} tokens" if tokens is not None else ""
    in_use = f" {used:,.0f} of them are in use now." if tokens is not None and used is not None else ""
    return parts, [f"{begin} Its KV cache is {gib(pool)} of main memory{counted}, taken in full at start.{in_use}"]


def _explain_silent(snapshot: Snapshot, engine: str, url: str, failing: str | None) -> EngineExplanation:
    found = snapshot.start_log_of(snapshot.server_at(url))
    log = found.log if found else None
    sentences = [f"It does not answer ({failing or 'not read yet'})."]
    if log is not None and log.error is not None:
        sentences.append(_why_it_failed(log.error))
    elif log is not None and log.init_seconds is None:
        sentences.append("Its start-up log ends before the engine was ready: it may still be loading.")
    return EngineExplanation(
        engine=engine,
        model_name=log.model if log else None,
        vllm_version=log.version if log else None,
        kv_tokens=None,
        kv_used_tokens=None,
        start_log=found.found if found else _NO_LOG,
        parts=(),
        sentences=tuple(sentences),
        choices=(),
        failed=True,
    )


def _explain_log(log: StartLog, found: str) -> EngineExplanation:
    """Explain a start from its log alone: what was taken then, of the GPU with the least room."""
    rank = min(log.ranks, key=lambda each: each.kv_cache_bytes or math.inf) if log.ranks else None
    figures = figures_of(None, log.on_gpu([rank.pid or 0], rank.rank), pool_bytes=None) if rank else {}
    names = {"weights": "weights", "kv_cache": "kv_idle", "cuda_graphs": "cuda_graphs"}
    names |= {"activation_peak": "activation_reserve", "non_torch": "engine_other"}
    told = {
        "weights": "The model's share of one GPU, as vLLM measured it while loading.",
        "kv_cache": "KV cache taken at start; a log does not tell how much of it is in use.",
        "cuda_graphs": "Captured CUDA graphs.",
        "activation_peak": "Working memory of the largest step, as profiled.",
        "non_torch": "Memory outside PyTorch that grew while profiling; the CUDA context is not in it.",
    }
    parts = tuple(
        _part(names[name], figures[name].expected, figures[name], told[name]) for name in names if name in figures
    )
    sentences = [_why_it_failed(log.error)] if log.error is not None else []
    if rank is not None and rank.budget_bytes is not None and rank.total_bytes is not None:
        sentences.append(
            f"vLLM's budget was gpu_memory_utilization ({log.gpu_memory_utilization:g}) x {gib(rank.total_bytes)} = "
            f"{gib(rank.budget_bytes)}; what the weights and their work left of it became KV cache."
        )
    if log.kv_tokens is not None:
        times = f": {log.max_concurrency:g} requests of full length" if log.max_concurrency is not None else ""
        sentences.append(f"The KV cache holds {log.kv_tokens:,} tokens{times}.")
    return EngineExplanation(
        engine="",
        model_name=log.model,
        vllm_version=log.version,
        kv_tokens=log.kv_tokens,
        kv_used_tokens=None,
        start_log=found,
        parts=parts,
        sentences=tuple(sentences),
        choices=(),
        failed=log.error is not None,
    )


def _why_it_failed(error: StartError) -> str:
    needed, available = error.needed_kv_cache_bytes, error.available_kv_cache_bytes
    if error.max_model_len is None or needed is None or available is None:
        return f"Its last start failed: {error.text}"
    fits = f"; --max-model-len {error.largest_max_model_len} fits" if error.largest_max_model_len else ""
    return (
        f"Its last start failed: one request of {error.max_model_len:,} tokens needs {gib(needed)} of KV cache, "
        f"{gib(available)} was left{fits}."
    )
