"""``vllm-headroom explain``: one look at this host, and why each vLLM process holds the memory that it holds."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import click
import psutil
import pynvml
from rich.console import Console
from rich.table import Table

from advisor.explain import EngineExplanation, Explanation, GpuExplanation, Part, UtilizationChoice, explain
from advisor.snapshot import Snapshot
from advisor.units import GIB, gib
from exporter import logs
from exporter.cli.output import paper
from exporter.config import Config, EngineConfig, load
from exporter.errors import UsageError
from exporter.health import Collector
from exporter.service import Service, World
from exporter.sources.start_log import read_start_log
from exporter.words import COMPONENT_WORDS


@click.command(name="explain")
@click.option("--engine", "urls", multiple=True, metavar="URL", help="A vLLM server; default: those on this host.")
@click.option("--api-key-file", type=click.Path(path_type=Path), metavar="FILE", help="Holds the server's API key.")
@click.option("--log", "log_file", type=click.Path(path_type=Path), metavar="FILE", help="Its start-up log.")
@click.option("--json", "as_json", is_flag=True, help="Print the same as JSON.")
def command(urls: tuple[str, ...], api_key_file: Path | None, log_file: Path | None, as_json: bool) -> None:
    """Say why each vLLM process holds the GPU memory that it holds, byte for byte.

    Weights, KV cache in use and idle, CUDA graphs, activations, CUDA context, other processes, free: from the driver,
    the engine's metrics, the model's files, and its start-up log where that can be read. Exit status 1 when an engine
    does not answer or there is nothing to explain.
    """
    logs.configure("error", "logfmt")
    config = load(None, {"engines": [{"url": url, "api_key_file": api_key_file} for url in urls] or None})
    if api_key_file and not urls:
        raise UsageError("--api-key-file: name the server that it is for with --engine")
    sys.exit(run(config, World(nvml=pynvml, processes=psutil), log_file=log_file, as_json=as_json))


def run(config: Config, world: World, *, log_file: Path | None, as_json: bool) -> int:
    """Look once, print the explanation, and return the exit status.

    Raises:
        UsageError: The log or a key cannot be read, or the log cannot be told to belong to one engine.
    """
    service = Service(config, world, start_log=read_start_log(log_file) if log_file else None)
    try:
        snapshot = service.once().snapshot
        health = service.health()
    finally:
        service.stop()
    if log_file and len(snapshot.targets) > 1:
        names = ", ".join(target.url for target in snapshot.targets)
        raise UsageError(
            f"--log: it tells of one engine, there are {len(snapshot.targets)}: choose with --engine ({names})"
        )
    explained = _chosen(explain(snapshot), snapshot, config.engines)
    notes = _notes(explained, health)
    if as_json:
        click.echo(json.dumps(_plain(explained, notes), indent=2))
    else:
        console = paper()
        _show(console, explained, notes)
    return int(not explained.engines or any(engine.failed for engine in explained.engines))


def _chosen(explained: Explanation, snapshot: Snapshot, engines: tuple[EngineConfig, ...]) -> Explanation:
    """Leave out GPUs that the engines asked for are not on, where it can be told on which they are."""
    if not engines:
        return explained
    used = {
        gpu.uuid
        for engine in engines
        for server in [snapshot.server_at(engine.url)]
        if server is not None
        for gpu in snapshot.gpus_of(server)
    }
    return Explanation(gpus=tuple(gpu for gpu in explained.gpus if gpu.uuid in used), engines=explained.engines)


def _notes(explained: Explanation, health: tuple[Collector, ...]) -> list[str]:
    notes = []
    for collector in health:
        reasons = ", ".join(collector.failing or {})
        if collector.collector == "nvml" and reasons:
            notes.append(f"GPUs: {'not all readable' if explained.gpus else 'none is readable here'} ({reasons}).")
        elif collector.collector in ("process", "start_log", "model", "advice") and reasons:
            notes.append(f"{collector.collector}: not readable ({reasons}).")
    if not explained.engines:
        notes.append("No vLLM server runs on this host; name one with --engine, or a log with --log.")
    return notes


def _plain(explained: Explanation, notes: list[str]) -> dict[str, Any]:
    return {**dataclasses.asdict(explained), "notes": notes}


def _show(console: Console, explained: Explanation, notes: list[str]) -> None:
    for gpu in explained.gpus:
        _show_gpu(console, gpu)
    for engine in explained.engines:
        _show_engine(console, engine)
    for note in notes:
        console.print(note, style="yellow", markup=False)


def _show_gpu(console: Console, gpu: GpuExplanation) -> None:
    console.print(f"GPU {gpu.gpu}: {gpu.name or gpu.uuid}, {gib(gpu.total_bytes)}", style="bold", markup=False)
    several = len({part.engine for part in gpu.parts if part.engine}) > 1
    if gpu.parts:
        console.print(_parts_table(gpu.parts, total_bytes=gpu.total_bytes, engines=several))
    if gpu.why_no_parts:
        console.print(gpu.why_no_parts, markup=False)


def _parts_table(parts: tuple[Part, ...], *, total_bytes: int | None, engines: bool) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("what", no_wrap=not engines, min_width=18)
    table.add_column("GiB", justify="right", no_wrap=True)
    table.add_column("bounds", justify="right", no_wrap=True)
    table.add_column("origin", no_wrap=True)
    table.add_column("why", ratio=1)
    for part in parts:
        if part.bytes == 0 and part.upper_bytes == 0:
            continue
        certain = part.lower_bytes == part.upper_bytes
        bounds = "" if certain else f"{_figure(part.lower_bytes)}-{_figure(part.upper_bytes)}"
        of = f" ({part.engine})" if engines and part.engine else ""
        what = f"{COMPONENT_WORDS[part.name]}{of}"
        table.add_row(what, _figure(part.bytes), bounds, part.origin.value, part.sentence)
    if total_bytes is not None:
        table.add_row("total", _figure(total_bytes), "", "", "", style="bold")
    return table


def _show_engine(console: Console, engine: EngineExplanation) -> None:
    told = [f"vLLM {engine.vllm_version}" if engine.vllm_version else "", engine.model_name or ""]
    title = ": ".join(part for part in (engine.engine, ", ".join(part for part in told if part)) if part)
    console.print()
    console.print(title or "A start-up log", style="bold red" if engine.failed else "bold", markup=False)
    if engine.parts:
        console.print(_parts_table(engine.parts, total_bytes=None, engines=False))
    for sentence in engine.sentences:
        console.print(sentence, markup=False)
    if engine.choices:
        console.print(_choices_table(engine.choices))
    console.print(f"Start-up log: {engine.start_log}.", style="dim", markup=False)


def _choices_table(choices: tuple[UtilizationChoice, ...]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("--gpu-memory-utilization", "gives back", "KV tokens", "full requests", ""):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for choice in choices:
        table.add_row(
            f"{choice.gpu_memory_utilization:g}",
            gib(choice.gives_back_bytes),
            f"{choice.kv_tokens:,}",
            f"{choice.full_context_concurrency:.2f}",
            "" if choice.starts else "does not start",
        )
    return table


def _figure(size_bytes: int) -> str:
    return f"{size_bytes / GIB:,.2f}"
