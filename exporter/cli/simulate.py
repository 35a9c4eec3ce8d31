"""``vllm-headroom simulate``: what other settings would do, without a server."""

import dataclasses
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
from rich.console import Console
from rich.progress import track

from advisor.readings import EngineReading
from advisor.scenario import (
    MOST_BLOCKS,
    Scenario,
    ScenarioError,
    StepsExceededError,
    Trace,
    play,
    scenario_from,
    trace_record,
)
from advisor.simulate import SchedulerConfig, StepLimitError, StepTimeModel
from advisor.step_times import DEFAULT_STEP_TIMES
from advisor.versions import NEWEST_STUDIED, Version, parse_version
from advisor.whatif import MOST_TOKENS, Outcome, TracedRequest, fitted, outcomes
from exporter.cli.options import FACTOR, Amount, refuse_own
from exporter.config import named_engine
from exporter.errors import SourceError, UsageError
from exporter.traffic import like_observed, made_up, numbers, traced

_MOST_SCENARIO_BYTES = 64 * 1024**2
_MOST_SETTINGS = 64
_MOST_OUTPUT_TOKENS = 100_000_000
"""Of all settings together: about a minute for every 15 million."""
_MOST_STEPS = 5_000_000
_MOST_SCENARIO_STEPS = 200_000
"""Every one of them is kept."""
_MADE_UP_REQUESTS = 1000
_VLLMS_TOO = (
    *("--max-num-seqs", "--max-num-batched-tokens", "--block-size", "--max-model-len"),
    *("--no-async-scheduling", "--seed"),
)
"""Options that mean vLLM's own after the --."""
_DEFAULT_SEQS = 256
_DEFAULT_BATCHED_TOKENS = 2048
_DEFAULT_BLOCK_SIZE = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class _Engine:
    """What is simulated where the command line does not say otherwise; None is not known."""

    what: str
    kv_blocks: int | None = None
    """Usable blocks."""
    block_size: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    max_model_len: int | None = None
    prefix_caching: bool | None = None
    chunked_prefill: bool | None = None
    async_scheduling: bool | None = None
    version: Version | None = None
    reading: EngineReading | None = None
    """Of a running server."""
    step_times: StepTimeModel | None = None
    step_times_from: str = ""
    notes: tuple[str, ...] = ()


@click.command(name="simulate")
@click.option("--scenario", type=click.Path(path_type=Path), metavar="FILE", help="Scripted runs as JSON: every step.")
@click.option("--trace", type=click.Path(path_type=Path), metavar="FILE", help="CSV or JSON lines: time and lengths.")
@click.option("--requests", type=click.IntRange(min=1), metavar="N", help="The first N of the trace.")
@click.option("--scale-lengths", type=float, default=1.0, metavar="F", help="Factor of the trace's lengths.")
@click.option("--speed", type=FACTOR, metavar="F", help="Play it F times as fast.")
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Requests like those that the daemon which keeps its state there has seen.",
)
@click.option("--rate", type=FACTOR, metavar="R", help="Requests a second instead.")
@click.option("--prompt-tokens", type=click.IntRange(1, MOST_TOKENS), default=512, show_default=True, metavar="N")
@click.option("--output-tokens", type=click.IntRange(1, MOST_TOKENS), default=128, show_default=True, metavar="N")
@click.option("--shared-prefix-tokens", type=click.IntRange(min=0), default=0, metavar="N", help="Of every prompt.")
@click.option("--seed", type=int, default=1, metavar="N", help="Of made-up arrivals.")
@click.option("--max-num-seqs", metavar="N[,N...]", help="Settings to try.")
@click.option("--max-num-batched-tokens", metavar="N[,N...]", help="Settings to try.")
@click.option("--kv-tokens", metavar="N[,N...]", help="Capacities to try.")
@click.option("--block-size", type=click.IntRange(min=1), metavar="N", help="Tokens in a block.")
@click.option("--max-model-len", type=click.IntRange(min=2), metavar="N", help="Most tokens of a request.")
@click.option("--no-prefix-caching", is_flag=True, help="As --no-enable-prefix-caching.")
@click.option("--no-async-scheduling", is_flag=True, help="As vLLM's flag, and as on the CPU.")
@click.option("--gpu", metavar="NAME", help="Capacity from a plan: a GPU, and a vLLM command line after --.")
@click.option("--gpu-memory-gib", type=float, metavar="GIB", help="Its CUDA-visible total instead.")
@click.option("--gpu-count", type=click.IntRange(min=1), metavar="N")
@click.option("--vllm-version", metavar="X.Y.Z", help="Release to simulate; default: the newest one studied.")
@click.option("--engine", metavar="URL", help="Capacity, lengths and step times from a running server.")
@click.option("--api-key-file", type=click.Path(path_type=Path), metavar="FILE", help="Holds its API key.")
@click.option(
    *("--watch", "watch_seconds"),
    type=Amount(0, 3600),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to watch --engine for its step times.",
)
@click.option("--step-times", type=click.Path(path_type=Path), metavar="FILE", help="From the JSON of a bench.")
@click.option("--step-base-ms", type=Amount(0, 1e9), metavar="MS", help="Of every step.")
@click.option("--step-prefill-us", type=Amount(0, 1e9), metavar="US", help="For each prompt token.")
@click.option("--step-decode-us", type=Amount(0, 1e9), metavar="US", help="For each request in decode.")
@click.option("--step-context-ns", type=Amount(0, 1e9), metavar="NS", help="For each cached token read.")
@click.option("--picture", type=click.Path(path_type=Path), metavar="FILE", help="Draw it: .svg or .png.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.argument("command_line", nargs=-1, type=click.UNPROCESSED)
def command(
    scenario: Path | None,
    trace: Path | None,
    requests: int | None,
    scale_lengths: float,
    speed: float | None,
    state_dir: Path | None,
    rate: float | None,
    prompt_tokens: int,
    output_tokens: int,
    shared_prefix_tokens: int,
    seed: int,
    max_num_seqs: str | None,
    max_num_batched_tokens: str | None,
    kv_tokens: str | None,
    block_size: int | None,
    max_model_len: int | None,
    no_prefix_caching: bool,
    no_async_scheduling: bool,
    gpu: str | None,
    gpu_memory_gib: float | None,
    gpu_count: int | None,
    vllm_version: str | None,
    engine: str | None,
    api_key_file: Path | None,
    watch_seconds: float,
    step_times: Path | None,
    step_base_ms: float | None,
    step_prefill_us: float | None,
    step_decode_us: float | None,
    step_context_ns: float | None,
    picture: Path | None,
    as_json: bool,
    command_line: tuple[str, ...],
) -> None:
    """Say what other settings would do: vllm-headroom simulate --trace FILE --kv-tokens 100000 --max-num-seqs 16,32,64.

    vLLM's own scheduler, step by step: who runs, who waits, who is preempted. Only how long a step takes is a model:
    given by flags, fitted to a running server (--engine) or to a load test (--step-times), else a default that is
    named as such. Exit status: 0 simulated, 1 it did not come to an end, 2 wrong use.
    """
    version = _version(vllm_version)
    if scenario is not None:
        sys.exit(_scenarios(scenario, version or (0, 32, 0), as_json=as_json))
    if picture is not None and picture.suffix.lower() not in (".svg", ".png"):
        raise UsageError(f"--picture: {picture.name} must end in .svg or .png")
    if picture is not None and not picture.parent.is_dir():
        raise UsageError(f"--picture: there is no directory {picture.parent}")  # minutes before it is drawn
    if engine is not None and (command_line or gpu or gpu_memory_gib):
        raise UsageError("--engine and a plan: both say what is simulated, give one")
    if trace is not None and state_dir is not None:
        raise UsageError("--trace and --state-dir: both say which requests to simulate, give one")
    refuse_own(command, command_line, but=_VLLMS_TOO)
    chance = random.Random(seed)  # noqa: S311 - made-up arrivals
    base = _Engine(what="the flags given")
    if command_line:
        base = _planned(gpu, gpu_memory_gib, gpu_count, vllm_version, command_line)
    elif engine is not None:
        base = _observed(engine, api_key_file, watch_seconds)
    if trace is not None:
        load = traced(trace, limit=requests, lengths=scale_lengths, speed=speed, rate=rate)
        offered = f"{len(load):,} requests of {trace.name}"
    elif state_dir is not None:
        load, offered = _like_remembered(state_dir, engine, requests or _MADE_UP_REQUESTS, rate, chance)
    elif base.reading is not None:
        load, offered = _like_observed(base.reading, requests or _MADE_UP_REQUESTS, rate, chance)
    elif rate is not None:
        load = made_up(
            count=requests or _MADE_UP_REQUESTS,
            rate=rate,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            chance=chance,
        )
        offered = f"{len(load):,} requests of {prompt_tokens:,} + {output_tokens:,} tokens, {rate:g} a second"
    else:
        raise UsageError("--trace, --state-dir, --rate or --engine is needed: the requests to simulate")
    model, told = _step_times(
        base, step_times, (step_base_ms, step_prefill_us, step_decode_us, step_context_ns), (1e-3, 1e-6, 1e-6, 1e-9)
    )
    longest = max(each.prompt_tokens + each.output_tokens for each in load)
    length = max_model_len or base.max_model_len or longest
    served, refused = fitted(load, length)
    if not served:
        raise UsageError(f"every prompt is longer than max-model-len ({length:,})")
    settings = _settings(
        base,
        seqs=max_num_seqs,
        batched=max_num_batched_tokens,
        kv=kv_tokens,
        block_size=block_size,
        max_model_len=length,
        prefix_caching=not no_prefix_caching and base.prefix_caching is not False,
        chunked_prefill=base.chunked_prefill is not False,
        async_scheduling=False if no_async_scheduling else base.async_scheduling,
        version=version or base.version or NEWEST_STUDIED,
    )
    _refuse_endless(served, settings)
    notes = list(base.notes)
    if refused:
        notes.append(f"{refused} requests are left out: vLLM refuses a prompt that fills max-model-len ({length:,}).")
    status = 0
    found: list[Outcome] = []
    try:
        for outcome in track(
            outcomes(served, settings, model, shared_prefix_tokens=shared_prefix_tokens, max_steps=_MOST_STEPS),
            total=len(settings),
            description="simulating",
            console=Console(stderr=True),
            transient=True,
            disable=not sys.stderr.isatty(),
        ):
            found.append(outcome)  # noqa: PERF402 - what is there when a setting does not end is shown
    except StepLimitError as error:
        notes.append(f"A setting did not come to an end: {error}.")
        status = 1
    except ValueError as error:
        raise UsageError(str(error)) from error
    about = {"engine": base.what, "load": offered, "max_model_len": length, "step_times": told}
    if as_json:
        click.echo(json.dumps(_plain(about, model, found, notes), indent=2))
    else:
        from exporter.cli.simulate_table import show

        show(about, found, notes)
    if picture is not None and found:
        from exporter.chart import save
        from exporter.cli.simulate_picture import chart_of

        save(chart_of(found, title=offered), picture)
    sys.exit(status)


def _version(text: str | None) -> Version | None:
    version = parse_version(text)
    if text is not None and version is None:
        raise UsageError(f"--vllm-version: {text!r} is not a release such as 0.32.0")
    return version


# --- scripted runs ---


def _scenarios(file: Path, version: Version, *, as_json: bool) -> int:
    """Play every scenario of a file and print what each did."""
    rows = _read_scenarios(file)
    scripts, problems = [], []
    for number, row in enumerate(rows):
        name = row.get("name") if isinstance(row, dict) else None
        try:
            scripts.append(scenario_from(row, where=str(name or f"{file.name}[{number}]"), version=version))
        except ScenarioError as error:
            problems.append(str(error))
    if problems:
        raise UsageError("\n".join(problems))
    status = 0
    played: list[tuple[Scenario, Trace]] = []
    for script, row in zip(scripts, rows, strict=True):
        try:
            result = play(script, max_steps=_MOST_SCENARIO_STEPS)
        except ScenarioError as error:
            raise UsageError(str(error)) from error
        except StepsExceededError as error:
            click.echo(f"vllm-headroom: {error}", err=True)
            status = 1
            continue
        if as_json:
            record = trace_record(result)
            click.echo(json.dumps({"name": record.pop("name"), "scenario": row, **record}))
        else:
            played.append((script, result))
    if not as_json:
        from exporter.cli.simulate_table import show_scenarios

        show_scenarios(played)
    return status


def _read_scenarios(file: Path) -> Sequence[Any]:
    """Read one scenario, a list of them, or one a line."""
    try:
        if file.is_file() and file.stat().st_size > _MOST_SCENARIO_BYTES:
            raise UsageError(f"{file}: more than {_MOST_SCENARIO_BYTES:,} bytes are no scenarios")
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{file}: not text in UTF-8") from error
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        lines = [line for line in text.splitlines() if line.strip()]
        try:
            content = [json.loads(line) for line in lines]
        except (ValueError, RecursionError):
            raise UsageError(f"{file}: not JSON: {error}") from error
    rows = content if isinstance(content, list) else [content]
    if not rows:
        raise UsageError(f"{file}: no scenario in it")
    return rows


# --- what is simulated ---


def _planned(
    gpu: str | None, gpu_memory_gib: float | None, gpu_count: int | None, version: str | None, argv: tuple[str, ...]
) -> _Engine:
    from exporter.planning import Asked, answer

    found = answer(Asked(gpu=gpu, gpu_memory_gib=gpu_memory_gib, gpu_count=gpu_count, vllm_version=version, argv=argv))
    plan, flags = found.plan, found.plan.flags
    if plan.error is not None:
        raise UsageError(f"this would not start: {plan.error}")
    notes = []
    if len(plan.layout.groups) > 1:
        notes.append(
            "Layers of several kinds share the cache: simulated as one kind with the same capacity in tokens at full "
            "context; short requests may fit better or worse."
        )
    block_size = _DEFAULT_BLOCK_SIZE if len(plan.layout.groups) > 1 else plan.layout.block_size
    return _Engine(
        what=f"{found.flags.model} on {found.device.name}, as planned",
        kv_blocks=int(plan.kv_tokens.expected) // block_size,
        block_size=block_size,
        max_num_seqs=flags.max_num_seqs,
        max_num_batched_tokens=flags.max_num_batched_tokens,
        max_model_len=flags.max_model_len,
        prefix_caching=flags.enable_prefix_caching,
        chunked_prefill=flags.enable_chunked_prefill,
        async_scheduling=found.flags.async_scheduling,
        version=found.version,
        notes=tuple(notes),
    )


def _observed(url: str, api_key_file: Path | None, watch_seconds: float) -> _Engine:
    """Ask a running server what it has, and watch it to learn how long its steps take."""
    import psutil

    from advisor.loadtest import stretches_of
    from advisor.step_times import fit_step_times
    from exporter.bench.watch import Watch
    from exporter.engines import local_flags, open_connection
    from exporter.sources.vllm import VllmSource

    config = named_engine("--engine", url, api_key_file=api_key_file)
    source = VllmSource(engine=urlsplit(config.url).netloc, url=config.url, connection=open_connection(config))
    try:
        reading = source.read()[0]
    except SourceError as error:
        raise UsageError(f"--engine: {config.url} does not answer as a vLLM server ({error.reason})") from error
    if watch_seconds:
        Console(stderr=True, highlight=False, emoji=False).print(
            f"Watches {config.url} for {watch_seconds:.0f} s to learn how long its steps take.", style="dim"
        )
    begin = time.monotonic()
    with Watch(source, lambda: time.monotonic() - begin) as watch:
        time.sleep(watch_seconds)
    fit = fit_step_times(stretches_of(watch.looks))
    cache = reading.cache
    gaps = reading.histograms.get("inter_token_seconds")
    mean = gaps.mean if gaps else None
    notes: list[str] = []
    if fit is not None:
        model, told = fit.model, f"fitted to {watch_seconds:.0f} s of {config.url} (off by {fit.error_ratio:.0%} there)"
    elif mean:
        model, told = StepTimeModel(base_seconds=mean), f"every step as long as {config.url}'s mean time between tokens"
        notes.append("The server had too little to do to fit step times: load it, or give a longer --watch.")
    else:
        model, told = None, ""
    blocks = cache.num_gpu_blocks
    flags = local_flags(config.url, psutil)
    return _Engine(
        what=f"{reading.model_name} at {config.url}",
        kv_blocks=blocks - 1 if blocks else None,
        block_size=cache.block_size,
        max_num_seqs=flags.max_num_seqs if flags else None,
        max_num_batched_tokens=flags.max_num_batched_tokens if flags else None,
        chunked_prefill=flags.enable_chunked_prefill if flags else None,
        async_scheduling=flags.async_scheduling if flags else None,
        max_model_len=reading.max_model_len,
        prefix_caching=cache.enable_prefix_caching,
        version=parse_version(reading.vllm_version),
        reading=reading,
        step_times=model,
        step_times_from=told,
        notes=tuple(notes),
    )


def _like_observed(
    reading: EngineReading, count: int, rate: float | None, chance: random.Random
) -> tuple[tuple[TracedRequest, ...], str]:
    """Return a load like the one that the server has seen, and what it is in words."""
    told = "as asked"
    lengths = reading.histograms.get("generation_tokens")
    if rate is None and lengths is not None and reading.started_at_seconds is not None:
        rate = lengths.count / max(1.0, time.time() - reading.started_at_seconds)
        told = "its mean since it started"
    if rate is None and lengths is not None and lengths.count:
        # Several front-end processes count together, and then none says when it began.
        raise UsageError("--engine: this server does not say since when it counts its requests: give --rate too")
    prompt = reading.histograms.get("prompt_tokens")
    load = like_observed(prompt, lengths, count=count, rate=rate, chance=chance) if rate else None
    if load is None or rate is None:
        raise UsageError("--engine: this server has finished no requests to take lengths and a rate from: give --trace")
    return load, f"{count:,} requests with the lengths of {reading.model_name}, {rate:.3g} a second ({told})"


def _like_remembered(
    directory: Path, url: str | None, count: int, rate: float | None, chance: random.Random
) -> tuple[tuple[TracedRequest, ...], str]:
    """Return a load like the one that a daemon has seen an engine serve, and what it is in words."""
    from advisor.load import Loads, from_json
    from exporter.state import LOAD_FILE, State

    nothing: Loads = {}
    loads = State(directory, LOAD_FILE, is_ours=False).load(from_json, nothing)
    known = {name: load for (name, _), load in reversed(list(loads.items()))}  # of several ranks the first
    if not known:
        raise UsageError(f"--state-dir: {directory} holds no load that a daemon has seen, or none that may be read")
    name = min(known) if len(known) == 1 else urlsplit(url or "").netloc
    if name not in known:
        raise UsageError(f"--state-dir: it knows {', '.join(sorted(known))}: choose one with --engine URL")
    seen = known[name]
    told = "as asked"
    if rate is None and seen.slow.seconds > 0:
        rate = seen.slow.finished / seen.slow.seconds
        busy = seen.slow.busy_seconds / seen.slow.seconds
        told = f"its mean, idle times with it: requests ran in {busy:.0%} of the time"
    prompt, output = seen.prompt_tokens.histogram, seen.generation_tokens.histogram
    load = like_observed(prompt, output, count=count, rate=rate, chance=chance) if rate else None
    if load is None or rate is None:
        raise UsageError(f"--state-dir: {name} was seen to finish no requests: give --trace")
    return load, f"{count:,} requests with the lengths of {seen.model_name} at {name}, {rate:.3g} a second ({told})"


def _step_times(
    base: _Engine, file: Path | None, given: tuple[float | None, ...], units: tuple[float, ...]
) -> tuple[StepTimeModel, str]:
    """Return the model of step times, and where it is from in words."""
    if any(value is not None for value in given):
        seconds = [(value or 0.0) * unit for value, unit in zip(given, units, strict=True)]
        told = "as given"
        model = StepTimeModel(
            base_seconds=seconds[0],
            per_prefill_token_seconds=seconds[1],
            per_decode_request_seconds=seconds[2],
            per_context_token_seconds=seconds[3],
        )
        if max(seconds) == 0:
            raise UsageError("--step-...: steps that take no time give no times")
        return model, told
    if file is not None:
        return _fitted_model(file), f"fitted to the load test in {file.name}"
    if base.step_times is not None:
        return base.step_times, base.step_times_from
    return DEFAULT_STEP_TIMES, "a default of no particular GPU: compare settings by it, do not quote its seconds"


def _fitted_model(file: Path) -> StepTimeModel:
    names = [each.name for each in dataclasses.fields(StepTimeModel)]
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        fit = content["step_times"]["model"]
        return StepTimeModel(**{name: float(fit[name]) for name in names})
    except OSError as error:
        raise UsageError(f"--step-times: {file}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise UsageError(
            f"--step-times: {file} is no result of bench --json with step times in it (its step_times is null where "
            "the server was too briefly busy)"
        ) from error


def _settings(
    base: _Engine,
    *,
    seqs: str | None,
    batched: str | None,
    kv: str | None,
    block_size: int | None,
    max_model_len: int,
    prefix_caching: bool,
    chunked_prefill: bool,
    async_scheduling: bool | None,
    version: Version,
) -> tuple[SchedulerConfig, ...]:
    """Return every combination asked for, capacities outermost.

    Raises:
        UsageError: There is no capacity, a number makes no sense, vLLM would refuse it, or there are too many.
    """
    size = block_size or base.block_size or _DEFAULT_BLOCK_SIZE
    if kv is not None:
        blocks = [tokens // size for tokens in numbers(kv, "--kv-tokens", most=10**12)]
    elif base.kv_blocks is not None and base.block_size is not None:
        blocks = [base.kv_blocks * base.block_size // size]
    else:
        raise UsageError("--kv-tokens is needed, or what to take it from: --gpu with a command line, or --engine")
    most = 10**6
    all_seqs = numbers(seqs, "--max-num-seqs", most=most) if seqs is not None else (base.max_num_seqs or _DEFAULT_SEQS,)
    all_batched = (
        numbers(batched, "--max-num-batched-tokens", most=most * 100)
        if batched is not None
        else (base.max_num_batched_tokens or max(_DEFAULT_BATCHED_TOKENS, *all_seqs),)
    )
    combinations = list(product(blocks, all_batched, all_seqs))
    if len(combinations) > _MOST_SETTINGS:
        raise UsageError(f"{len(combinations)} settings are too many, at most {_MOST_SETTINGS} at a time")
    if max(blocks) >= MOST_BLOCKS:
        raise UsageError(f"{max(blocks):,} blocks are more than this simulates: give a larger --block-size")
    needed = -(-max_model_len // size)
    if min(blocks) < needed:
        raise UsageError(
            f"{min(blocks) * size:,} tokens of KV cache do not hold one request of max-model-len ({max_model_len:,} "
            "tokens), so vLLM would not start: give more --kv-tokens or a smaller --max-model-len"
        )
    try:
        return tuple(
            SchedulerConfig.for_version(
                version,
                num_gpu_blocks=count + 1,
                block_size=size,
                max_num_seqs=running,
                max_num_batched_tokens=tokens,
                max_model_len=max_model_len,
                enable_prefix_caching=prefix_caching,
                enable_chunked_prefill=chunked_prefill,
                async_scheduling=async_scheduling,
            )
            for count, tokens, running in combinations
        )
    except ValueError as error:
        raise UsageError(str(error)) from error


def _refuse_endless(trace: Sequence[TracedRequest], settings: Sequence[SchedulerConfig]) -> None:
    tokens = sum(each.output_tokens for each in trace) * len(settings)
    if tokens > _MOST_OUTPUT_TOKENS:
        raise UsageError(
            f"{tokens:,} output tokens in {len(settings)} settings are more than this simulates at a time "
            f"({_MOST_OUTPUT_TOKENS:,}): take the first N of the trace with --requests N, or fewer settings"
        )


def _plain(
    about: dict[str, Any], model: StepTimeModel, found: Sequence[Outcome], notes: Sequence[str]
) -> dict[str, Any]:
    return {
        **about,
        "step_time_model": dataclasses.asdict(model),
        "settings": [dataclasses.asdict(each) for each in found],
        "notes": list(notes),
    }
