"""``vllm-headroom advise``: what max-num-seqs and the other memory flags should be, from the load seen."""

import json
import math
import shlex
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import click
import psutil
import pynvml
from rich.console import Console
from rich.table import Table

from advisor.flag_advice import FlagAdvice
from advisor.report import Engine, EngineAdvice
from advisor.tuning import Observed, SeqsAdvice
from advisor.units import gib, spelled_seconds
from exporter import logs
from exporter.command_line import server_argv, with_flags
from exporter.config import Config, load
from exporter.service import Published, Service, World
from exporter.web.advice import advice

_WIDTH = 80
_WATCH_INTERVAL_SECONDS = 1.0


@click.command(name="advise")
@click.option("--engine", "urls", multiple=True, metavar="URL", help="A vLLM server; default: those on this host.")
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="STATE_DIRECTORY",
    metavar="DIR",
    help="State directory of a running daemon: advice rests on what that has seen.",
)
@click.option("--watch", type=click.FloatRange(min=0), default=0.0, metavar="SECONDS", help="Watch for so long first.")
@click.option("--config", "config_file", type=click.Path(path_type=Path), metavar="FILE", help="YAML file; see docs.")
@click.option("--json", "as_json", is_flag=True, help="Print what /api/v1/advice shows.")
def command(
    urls: tuple[str, ...], state_dir: Path | None, watch: float, config_file: Path | None, as_json: bool
) -> None:
    """Say what max-num-seqs and the other memory flags should be, what each change buys, and what it does not.

    One look tells little: give the state directory of a daemon that has watched the server, or --watch long enough.
    Exit status 0: nothing to change; 1: something should be changed, or nothing can be advised yet.
    """
    logs.configure("error", "logfmt")
    given: dict[str, Any] = {"engines": [{"url": url} for url in urls] or None, "state_dir": state_dir}
    if watch:
        given["poll_interval"] = _WATCH_INTERVAL_SECONDS
    config = load(config_file, {key: value for key, value in given.items() if value is not None})
    world = World(nvml=pynvml, processes=psutil)
    sys.exit(run(config, world, watch_seconds=watch, as_json=as_json))


def run(config: Config, world: World, *, watch_seconds: float, as_json: bool) -> int:
    """Look, print the advice, and return the exit status.

    Raises:
        UsageError: A key cannot be read.
    """
    service = Service(config, world, keeps_state=False)
    try:
        published = _watched(service, watch_seconds) if watch_seconds else service.once()
    finally:
        service.stop()
    report = published.report
    down = [engine for engine in report.engines if not engine.up]
    if as_json:
        click.echo(json.dumps(advice(published), indent=2))
    else:
        console = Console(width=None if sys.stdout.isatty() else _WIDTH, highlight=False)
        _show(console, published, down, world)
    settled = report.advice and all(each.seqs is not None and not _changes(each) for each in report.advice)
    return int(bool(down) or not settled)


def _watched(service: Service, seconds: float) -> Published:
    service.start()
    time.sleep(seconds)
    return service.published() or service.once()


def _changes(each: EngineAdvice) -> dict[str, str | None]:
    """Return the flags to change together, with their values, None for those to take out.

    What is advised of max-num-seqs rests on the KV that there is, so no way to more KV goes with it; of several ways
    the first is taken only where nothing else is to be changed.
    """
    changed = [flag for flag in each.flags if flag.is_change]
    together = [flag for flag in changed if not flag.is_way_to_more_kv]
    found: dict[str, str | None] = {}
    if each.seqs is not None and each.seqs.recommended != each.seqs.current:
        found["max-num-seqs"] = str(each.seqs.recommended)
    for flag in together or (changed[:1] if not found else []):
        found[flag.flag] = None if flag.recommended == "remove" else flag.recommended
    return found


def _instead(each: EngineAdvice) -> list[FlagAdvice]:
    """Return the ways to more KV that the command line to paste leaves out."""
    return [flag for flag in each.flags if flag.is_way_to_more_kv and flag.flag not in _changes(each)]


def _show(console: Console, published: Published, down: list[Engine], world: World) -> None:
    report = published.report
    judged = {(engine.engine, engine.dp_rank): engine for engine in report.engines}
    for each in report.advice:
        engine = judged[each.engine, each.dp_rank]
        version = f": vLLM {engine.vllm_version}" if engine.vllm_version else ""
        console.print(f"{each.engine}{version}, {each.model_name}", style="bold", markup=False)
        if each.observed is not None:
            _show_observed(console, each.observed)
        if each.seqs is None:
            _say(console, f"No advice: {each.not_yet}.")
        else:
            _show_seqs(console, each.seqs)
            _show_flags(console, each.flags)
        _show_outlook(console, engine)
        if _changes(each):
            _show_instead(console, _instead(each))
            _show_command(console, published, each, world)
        console.print()
    for engine in down:
        reasons = ", ".join(engine.failing or {}) or "no reason known"
        _say(console, f"{engine.engine}: does not answer ({reasons}).")
    if not report.engines:
        _say(console, "No vLLM server runs on this host; name one with --engine.")


def _show_observed(console: Console, seen: Observed) -> None:
    parts = [f"{seen.finished_requests:,.0f} requests in {spelled_seconds(seen.busy_seconds)} of load"]
    for value, words in (
        (seen.mean_running, "{:.1f} running on average"),
        (seen.peak_demand, "{} asked for at once"),
        (seen.prompt_tokens, "prompts of {:,.0f} tokens"),
        (seen.generation_tokens, "answers of {:,.0f}"),
        (seen.queue_p95_seconds, "95% waited at most {:g} s"),
        (seen.preempted_ratio, "{:.1%} preempted"),
        (seen.prefix_hit_ratio, "{:.0%} of prompt tokens from the prefix cache"),
    ):
        if value is not None:
            parts.append(words.format(value))
    _say(console, f"Seen: {', '.join(parts)}.")


def _show_seqs(console: Console, seqs: SeqsAdvice) -> None:
    if seqs.recommended == seqs.current:
        _say(console, f"max-num-seqs: leave it at {seqs.current}")
    else:
        _say(
            console,
            f"max-num-seqs: {seqs.current} -> {seqs.recommended} (between {seqs.lower} and {seqs.upper}; "
            f"confidence {seqs.confidence_ratio:.0%}; what binds: {seqs.binding})",
        )
    _say(console, f"{seqs.because}.", indent=2)
    for title, lines in (("It buys", seqs.buys), ("It does not buy", seqs.does_not_buy)):
        for line in lines:
            _say(console, f"{title}: {line}.", indent=2)


def _show_flags(console: Console, flags: tuple[FlagAdvice, ...]) -> None:
    if not flags:
        return
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("flag", "now", "should be"):
        table.add_column(name, no_wrap=True)
    table.add_column("KV tokens", justify="right", no_wrap=True)
    table.add_column("because", ratio=1)
    for flag in flags:
        gain = "" if flag.kv_gain_tokens is None else f"{flag.kv_gain_tokens:+,.0f}"
        should = flag.recommended if flag.is_change else "="
        table.add_row(flag.flag, flag.current, should, gain, flag.why)
    console.print(table, markup=False)


def _show_outlook(console: Console, engine: Engine) -> None:
    if engine.restart_fits is not None:
        missing = engine.restart_shortfall_bytes or 0.0
        verdict = "would pass" if engine.restart_fits else f"would fail for {gib(missing)} too little"
        _say(console, f"A restart with the same flags {verdict}.")
    ahead = engine.time_to_kv_exhaustion_seconds
    if engine.preemption_risk_ratio is not None and ahead is not None:
        full = "not within an hour" if math.isinf(ahead) else f"in {spelled_seconds(ahead)}"
        _say(console, f"A preemption is to come with probability {engine.preemption_risk_ratio:.2f}; KV full: {full}.")


def _show_instead(console: Console, ways: list[FlagAdvice]) -> None:
    if ways:
        names = ", ".join(f"{flag.flag} ({flag.kv_gain_tokens:+,.0f} tokens)" for flag in ways)
        _say(
            console,
            f"More KV instead: {names}. Each is worked out with all else as it is: take one, then look again, for "
            "max-num-seqs would be another.",
        )


def _show_command(console: Console, published: Published, each: EngineAdvice, world: World) -> None:
    reading = next(one for one in published.snapshot.engines if one.engine == each.engine)
    server = published.snapshot.server_at(reading.url)
    argv = server_argv(world.processes, server.pids) if server is not None else None
    if argv is None:
        _say(console, "Its command line cannot be read from here; set the flags where it is started.")
        return
    _say(console, "To paste (nothing is changed for you):")
    for line in _pasted([shlex.quote(word) for word in with_flags(argv, _changes(each))]):
        # A word longer than the line is not broken: what is pasted must stay whole.
        console.print(line, markup=False, soft_wrap=True)


def _pasted(words: list[str]) -> list[str]:
    """Break a command line between words, as a shell continues it."""
    lines: list[list[str]] = [[]]
    for word in words:
        if lines[-1] and len(" ".join([*lines[-1], word])) > _WIDTH - 6:
            lines.append([])
        lines[-1].append(word)
    return [f"  {' '.join(line)}" + (" \\" if line is not lines[-1] else "") for line in lines]


def _say(console: Console, text: str, *, indent: int = 0) -> None:
    pad = " " * indent
    width = console.width
    console.print(
        textwrap.fill(text, width, initial_indent=pad, subsequent_indent=pad, break_on_hyphens=False), markup=False
    )
