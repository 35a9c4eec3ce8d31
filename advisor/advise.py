"""``advise(snapshot, history, policy) -> Report``: the one judgement that every renderer shows."""

from dataclasses import dataclass, replace

from advisor.capacity import cuda_total_bytes
from advisor.counsel import Replanner, counsel, utilization_in_effect
from advisor.defaults import Device, FlagOrigin, default_max_num_seqs
from advisor.engine import judge_engine
from advisor.estimate import Estimate, added, exactly
from advisor.gpu import EngineShare, judge_gpu
from advisor.history import EngineHistory, History
from advisor.memory import budget
from advisor.model_files import ModelFiles
from advisor.plan import EnginePlan
from advisor.policy import Policy
from advisor.readings import EngineProcess, EngineReading, Gpu
from advisor.report import Engine, GpuJudgement, Report
from advisor.residuals import Residuals, flags_key, place_key
from advisor.risk import Culprit
from advisor.risk_state import GpuState
from advisor.rules import findings
from advisor.snapshot import EngineTarget, Snapshot, gpus_of_rank
from advisor.starts import previous_starts
from advisor.versions import parse_version


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """One engine that answered, with all that was found out about where and how it runs."""

    reading: EngineReading
    server: EngineProcess | None
    gpus: tuple[Gpu, ...]
    device: Device | None
    """What one rank runs on, None where that is not known."""
    planned: Replanner | None
    """What plans it with other flags, None without a theory."""
    theory: EnginePlan | None
    no_theory: str | None


def advise(snapshot: Snapshot, history: History, policy: Policy) -> Report:
    """Judge everything in a snapshot."""
    placed = placements(snapshot)
    engines = tuple(
        judge_engine(
            each.reading,
            theory=each.theory,
            no_theory=each.no_theory,
            max_num_seqs=_max_num_seqs(each),
            history=history.engines.get((each.reading.engine, each.reading.dp_rank), EngineHistory()),
            now_seconds=snapshot.now_seconds,
            policy=policy,
        )
        for each in placed
    )
    down = tuple(
        engine for target in snapshot.targets if not snapshot.readings_of(target.engine) for engine in _absent(target)
    )
    judgements: list[GpuJudgement] = []
    sentences: dict[tuple[str, str], str] = {}
    remedies: dict[tuple[str, str], str] = {}
    culprits: dict[str, Culprit] = {}
    states: dict[str, GpuState] = {}
    for gpu in snapshot.gpus:
        if snapshot.visible_pids is None and snapshot.processes_on(gpu) and not snapshot.servers:
            # Without the process table every engine would look like a stranger, with nothing claimed.
            states[gpu.uuid] = history.gpus.get(gpu.uuid, GpuState())
            judgements.append(GpuJudgement(gpu=gpu.gpu, uuid=gpu.uuid))
            continue
        shares, strangers, foreign_bytes = _shares(snapshot, gpu, placed)
        judgement, said, states[gpu.uuid] = judge_gpu(
            snapshot.with_errors_of_its_board(gpu),
            shares=shares,
            strangers=strangers,
            foreign_bytes=foreign_bytes,
            state=history.gpus.get(gpu.uuid, GpuState()),
            now_seconds=snapshot.now_seconds,
            policy=policy,
        )
        judgements.append(judgement)
        if said is not None:
            sentences |= {(gpu.uuid, factor): sentence for factor, sentence in said.sentences.items()}
            remedies |= {(gpu.uuid, factor): remedy for factor, remedy in said.remedies.items()}
            if said.culprit is not None:
                culprits[gpu.uuid] = said.culprit
    counselled = [
        counsel(
            snapshot,
            engine,
            each.reading,
            server=each.server,
            gpus=each.gpus,
            judgements=judgements,
            theory=each.theory,
            planned=each.planned,
            load=history.load.get((each.reading.engine, each.reading.dp_rank)),
            policy=policy,
        )
        for each, engine in zip(placed, engines, strict=True)
    ]
    report = Report(
        gpus=tuple(judgements),
        engines=tuple(engine for engine, _ in counselled) + down,
        advice=tuple(advice for _, advice in counselled),
        factor_sentences=sentences,
        factor_remedies=remedies,
        previous_starts=previous_starts(history.starts, snapshot),
        residuals=_learned(history.residuals, placed),
        culprits=culprits,
        gpu_states=states,
    )
    return replace(report, findings=findings(snapshot, report, policy))


def _learned(residuals: Residuals, placed: list[Placed]) -> Residuals:
    """Fold in by how much theory missed for each engine whose pool vLLM sized by its budget."""
    for each in placed:
        memory = each.theory.memory if each.theory else None
        blocks = each.reading.cache.num_gpu_blocks
        if each.theory is None or each.planned is None or memory is None or blocks is None:
            continue
        flags = each.theory.flags
        if flags.kv_cache_memory_bytes is not None or flags.num_gpu_blocks_override is not None:
            continue
        missed = blocks * each.theory.layout.bytes_per_block - memory.available_for_kv.expected
        plans = each.planned
        place = place_key(plans.spec, version=plans.version, gpu=each.theory.device_name, flags=plans.flags)
        residuals = residuals.learned(place, flags_key(plans.flags), missed)
    return residuals


def placements(snapshot: Snapshot) -> list[Placed]:
    """Return every engine that answered, with where it runs and what it should hold."""
    return [
        _place(snapshot, reading, position, len(readings))
        for target in snapshot.targets
        for readings in (snapshot.readings_of(target.engine),)
        for position, reading in enumerate(readings)
    ]


def _absent(target: EngineTarget) -> tuple[Engine, ...]:
    """A server that does not answer keeps its names, so that its ``up`` falls to 0 on the same series."""
    return tuple(
        Engine(
            engine=target.engine,
            model_name=model_name,
            dp_rank=dp_rank,
            up=0,
            failing={target.failing: 1} if target.failing else None,
        )
        for model_name, dp_rank in target.ranks or (("", "0"),)
    )


def _place(snapshot: Snapshot, reading: EngineReading, position: int, ranks: int) -> Placed:
    server = snapshot.server_at(reading.url)
    gpus = gpus_of_rank(snapshot.gpus_of(server), position, ranks) if server else ()
    device = _device(gpus, reading, server) if server else None
    files = (
        snapshot.model_at(server.model_path, reading.model_path, overrides=server.flags.config_overrides())
        if server
        else None
    )
    planned, reason = _replanner(reading, server, files, device)
    theory = None
    if planned is not None:
        try:
            theory = planned.plan()
        except ValueError as error:
            planned, reason = None, str(error)
    return Placed(
        reading=reading,
        server=server,
        gpus=gpus,
        device=device,
        planned=planned,
        theory=theory,
        no_theory=reason,
    )


def _replanner(
    reading: EngineReading, server: EngineProcess | None, files: ModelFiles | None, device: Device | None
) -> tuple[Replanner | None, str | None]:
    """Return what plans an engine, or why nothing can."""
    if server is None:
        return None, "the server runs on another host or cannot be found in the process table"
    if files is None:
        return None, "the model's config.json has not been read"
    if files.spec is None:
        return None, (files.declined or "").replace(files.path, "the model")  # shown to all: it must name no path
    if device is None:
        return None, "the GPUs that the server runs on are not known"
    replanner = Replanner(
        spec=files.spec,
        tensors=files.weights,
        flags=server.flags,
        version=parse_version(reading.vllm_version),
        device=device,
        kv_cache_bytes=reading.cache.kv_cache_memory_bytes,
    )
    return replanner, None


def _device(gpus: tuple[Gpu, ...], reading: EngineReading, server: EngineProcess) -> Device | None:
    """Return what one rank runs on; the smallest GPU decides. vLLM's CPU build says so in its version."""
    totals = [(total, gpu) for gpu in gpus if (total := cuda_total_bytes(gpu)) is not None]
    if totals:
        total, gpu = min(totals, key=lambda pair: pair[0])
        return Device(
            name=gpu.name or "unknown GPU", memory_bytes=total, compute_capability=_capability(gpu.compute_capability)
        )
    on_cpu = "cpu" in (reading.vllm_version or "") or "VLLM_CPU_KVCACHE_SPACE" in server.flags.environment
    return Device(name="cpu", memory_bytes=0) if on_cpu else None


def _capability(text: str | None) -> tuple[int, int] | None:
    major, _, minor = (text or "").partition(".")
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None


def _max_num_seqs(placed: Placed) -> tuple[int, FlagOrigin] | None:
    """Return the limit in effect. No endpoint tells it: the command line does, else the release's default."""
    if placed.theory is not None:
        flags = placed.theory.flags
        return flags.max_num_seqs, flags.origins["max_num_seqs"]
    if placed.server is None:
        return None
    if placed.server.flags.max_num_seqs is not None:
        return placed.server.flags.max_num_seqs, "given"
    version = parse_version(placed.reading.vllm_version)
    if version is None or placed.device is None:
        return None
    return default_max_num_seqs(version, placed.device), "default"


def _shares(
    snapshot: Snapshot, gpu: Gpu, placed: list[Placed]
) -> tuple[list[EngineShare], dict[str, float], float | None]:
    """Return what each engine holds and may claim on a GPU, what each foreign process holds, and these in all."""
    holders, foreign_bytes = holders_on(snapshot, gpu, placed)
    processes = snapshot.processes_on(gpu)
    shares = []
    for server, engine, held in holders:
        running = engine.reading.requests_running if engine else None
        first_pid = min(process.pid for process in processes if process.pid in server.pids)
        host = snapshot.host_memory_of(server)
        budget_bytes = _budget(server, engine, gpu)
        entitled, parts = (exactly(0.0), {}) if held is None else _entitled(engine, held, budget_bytes)
        shares.append(
            EngineShare(
                engine=server_name(snapshot, server, engine),
                held_bytes=held,
                entitled=entitled,
                parts=parts,
                budget_bytes=budget_bytes,
                key=f"engine {first_pid}",
                busy=None if running is None else running > 0,
                host_memory_ratio=host.used_ratio if host else None,
            )
        )
    known = {pid for server in snapshot.servers for pid in server.pids}
    strangers = {
        str(process.pid): float(process.used_bytes)
        for process in processes
        if process.pid not in known and process.used_bytes is not None
    }
    unowned = snapshot.unowned_on(gpu)
    if unowned:
        strangers["nobody in sight"] = float(unowned)
    return shares, strangers, foreign_bytes


def _budget(server: EngineProcess, engine: Placed | None, gpu: Gpu) -> float | None:
    """Return what a server's start-up check asks for on a GPU, None as in `utilization_in_effect`."""
    total = cuda_total_bytes(gpu)
    version = parse_version(engine.reading.vllm_version) if engine else None
    utilization = utilization_in_effect(server.flags, version, engine.theory if engine and version else None)
    return None if total is None or utilization is None else budget(total, utilization)


def holders_on(
    snapshot: Snapshot, gpu: Gpu, placed: list[Placed]
) -> tuple[list[tuple[EngineProcess, Placed | None, float | None]], float | None]:
    """Return the servers on a GPU with the engine that answers there, if any, and the bytes held; and foreign bytes.

    Bytes are None where the driver tells them neither of these processes nor of all others.
    """
    processes = snapshot.processes_on(gpu)
    claimed_pids: set[int] = set()
    found = []
    for server in snapshot.servers:
        mine = [process for process in processes if process.pid in server.pids]
        if not mine:
            continue
        claimed_pids |= {process.pid for process in mine}
        held = snapshot.held_on(gpu, server.pids)
        engine = next((each for each in placed if each.server is server and gpu in each.gpus), None)
        found.append((server, engine, None if held is None else float(held)))
    foreign = snapshot.held_on(gpu, frozenset(process.pid for process in processes) - claimed_pids)
    return found, None if foreign is None else float(foreign + snapshot.unowned_on(gpu))


def server_name(snapshot: Snapshot, server: EngineProcess, engine: Placed | None) -> str:
    """Return a server's id, which it has before it answers, too."""
    if engine is not None:
        return engine.reading.engine
    watched = (target.engine for target in snapshot.targets if snapshot.server_at(target.url) is server)
    return next(watched, server.name)


def _entitled(engine: Placed | None, held: float, budget_bytes: float | None) -> tuple[Estimate, dict[str, float]]:
    """Return what an engine may come to hold on a GPU, and the parts of that by plan; none without one or asleep."""
    plan = engine.theory.memory if engine and engine.theory else None
    if engine is None or engine.theory is None or plan is None:
        # Loading: until it answers, it may take its whole budget. Of a kind without theory: what it holds.
        return exactly(max(held, budget_bytes) if engine is None and budget_bytes is not None else held), {}
    usage = engine.reading.kv_usage_ratio or 0.0
    blocks = engine.reading.cache.num_gpu_blocks
    layout = engine.theory.layout
    pool = blocks * layout.bytes_per_block if blocks is not None else plan.kv_cache.expected
    flags = engine.theory.flags
    sized_by_budget = flags.kv_cache_memory_bytes is None and flags.num_gpu_blocks_override is None
    parts = {
        "weights": plan.weights.expected,
        "kv_used": pool * usage,
        "kv_idle": pool * (1 - usage),
        "cuda_graphs": plan.cuda_graphs.expected,
        "engine_other": plan.beside_kv.expected
        - plan.weights.expected
        - plan.cuda_graphs.expected
        - plan.activation_peak.expected,
        "activation_reserve": plan.activation_peak.expected,
    }
    # Where vLLM sized the pool itself, its own measurement says that everything else fits the budget beside it.
    entitled = plan.budget_and_beside if sized_by_budget else added((plan.beside_kv, exactly(pool)))
    # Asleep, the parts are off the GPU; all of them may come back at any moment.
    return entitled, {} if engine.reading.sleeping else parts
