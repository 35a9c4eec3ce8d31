"""``vllm-headroom advise --fleet``: every engine that a Prometheus knows, worst first, and what all could take."""

import json
import textwrap
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from advisor.fleet import MIS_SIZED, Fleet, FleetEngine, Judged, judge_fleet
from advisor.units import spelled_seconds
from exporter.cli.output import paper
from exporter.config import Config
from exporter.errors import UsageError
from exporter.fleet import Seen, read_fleet
from exporter.past import LOOPBACK, host_of
from exporter.sources.prometheus import Prometheus
from exporter.words import percent, printable

_MOST_BODY_BYTES = 128 * 1024**2
"""Of an answer on thousands of engines."""
_SAYS = {
    "down": "DOWN",
    "overfull": "too full",
    "held_up": "held up",
    "short_of_kv": "short of KV",
    "flags": "flags",
    "unknown": "cannot say",
    "idle": "idle",
    "right": "right",
}


def run_fleet(config: Config, *, as_json: bool, now_seconds: float | None = None) -> int:
    """Read, print, and return the exit status: 0 where nothing should be changed, else 1.

    Raises:
        UsageError: No Prometheus is named, or a file with its credentials cannot be read.
        SourceError: It cannot be asked.
    """
    if config.prometheus is None:
        raise UsageError("--fleet asks a Prometheus: name it with --prometheus URL or in --config FILE")
    prometheus = Prometheus(config.prometheus, most_body_bytes=_MOST_BODY_BYTES)
    now = time.time() if now_seconds is None else now_seconds
    window = 3600 * config.prometheus.history_hours
    policy = config.thresholds()
    errors = Console(stderr=True)
    try:
        with errors.status("reading") as status:  # on a terminal; nothing elsewhere
            seen = read_fleet(
                prometheus,
                policy,
                now_seconds=now,
                window_seconds=window,
                progress=lambda text: status.update(f"reading {printable(text)}"),
            )
    finally:
        prometheus.close()
    fleet = judge_fleet(seen.engines, seen.gpus, policy)
    warnings = tuple(prometheus.warnings)
    if as_json:
        click.echo(json.dumps(as_data(fleet, seen, warnings, prometheus.url, now, window), indent=2))
    else:
        console = paper()
        show(console, fleet, seen, warnings, prometheus.url, window)
    return int(not fleet.engines or any(each.verdict not in ("right", "idle") for each in fleet.engines))


def as_data(
    fleet: Fleet, seen: Seen, warnings: tuple[str, ...], url: str, now_seconds: float, window_seconds: float
) -> dict[str, Any]:
    """Return the same as JSON-ready data."""
    return {
        "time_seconds": now_seconds,
        "window_seconds": window_seconds,
        "prometheus": url,
        "warnings": list(warnings),
        "sums": asdict(fleet.sums),
        "engines": [
            {
                **asdict(each.engine),
                "verdict": each.verdict,
                "because": each.because,
                "binding": each.binding,
                "idle_tokens": each.engine.idle_tokens,
                "preempted_ratio": each.engine.preempted_ratio,
                "more_as_set": each.more_as_set,
                "more_as_advised": each.more_as_advised,
            }
            for each in fleet.engines
        ],
        "gpus": [{**asdict(each), "is_idle": each.is_idle} for each in fleet.gpus],
        "gone": [
            {"where": each.where, "engine": each.engine, "model_name": each.model_name, "dp_rank": each.dp_rank}
            for each in seen.gone
        ],
        "copies": seen.copies,
    }


def show(
    console: Console, fleet: Fleet, seen: Seen, warnings: tuple[str, ...], url: str, window_seconds: float
) -> None:
    """Print it for people."""

    def say(text: str) -> None:
        console.print(textwrap.fill(text, console.width, break_on_hyphens=False), markup=False)

    if not fleet.engines:
        say(
            f"{url} has no engine of the last {spelled_seconds(window_seconds)}: neither headroom_engine_up nor "
            "vllm:num_requests_running."
        )
    else:
        _summary(say, fleet, window_seconds)
        console.print()
        console.print(_table(fleet, ranks=any(each.engine.dp_rank != "0" for each in fleet.engines)), markup=False)
        console.print()
    _footnotes(say, fleet, seen)
    for warning in warnings:
        say(f"The server warns: {printable(warning)}")


def _summary(say: Callable[[str], None], fleet: Fleet, window_seconds: float) -> None:
    sums = fleet.sums
    say(
        f"{sums.engines} engines in the last {spelled_seconds(window_seconds)}, {sums.up} up: {sums.mis_sized} "
        f"mis-sized, {sums.idle} idle, {sums.unknown} cannot be told."
    )
    if sums.capacity_tokens > 0:
        say(
            f"KV: {sums.capacity_tokens:,.0f} tokens; all but 1% of the time {sums.used_tokens:,.0f} or fewer are in "
            f"use, so {sums.idle_tokens:,.0f} ({percent(sums.idle_tokens / sums.capacity_tokens)}) sit idle."
        )
    more = f"Beside that load {sums.more_as_set:,} more typical requests fit"
    if sums.more_as_advised != sums.more_as_set:
        more += f", {sums.more_as_advised:,} with max-num-seqs as advised"
    say(f"{more}.")
    if sums.gpus:
        say(f"GPUs: {sums.gpus}, of which {sums.idle_gpus} did nothing{_idle_gpus(fleet)}.")


def _idle_gpus(fleet: Fleet) -> str:
    by_host: dict[str, list[str]] = {}
    for each in fleet.gpus:
        if each.is_idle:
            by_host.setdefault(each.where, []).append(each.gpu)
    named = "; ".join(f"{printable(host)}: {', '.join(map(printable, gpus))}" for host, gpus in by_host.items())
    return f" ({named})" if named else ""


def _table(fleet: Fleet, *, ranks: bool) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("engine", max_width=24, overflow="fold")
    table.add_column("is", no_wrap=True)
    table.add_column("KV idle", justify="right", no_wrap=True)
    table.add_column("more fit", justify="right", no_wrap=True)
    table.add_column("because", ratio=1, overflow="fold")
    for each in fleet.engines:
        idle = each.engine.idle_ratio
        binds = f" ({each.binding})" if each.verdict in MIS_SIZED and each.binding not in (None, "none") else ""
        table.add_row(
            f"{shown_name(each.engine, ranks=ranks)}\n{printable(each.engine.model_name)}".strip(),
            _SAYS[each.verdict],
            "" if idle is None else percent(idle),
            _more(each),
            printable(each.because + binds),
        )
    return table


def _more(each: Judged) -> str:
    if each.more_as_set is None or not each.engine.is_up:
        return ""
    changes = each.more_as_advised is not None and each.more_as_advised != each.more_as_set
    return f"{each.more_as_set:,} -> {each.more_as_advised:,}" if changes else f"{each.more_as_set:,}"


def shown_name(engine: FleetEngine, *, ranks: bool) -> str:
    """Return an engine's name for people: its own, with the host where it is told apart by that alone."""
    name = engine.engine
    if engine.seen_by == "vllm":
        name = f"{engine.where}:{name.rpartition(':')[2]}" if ":" in name else engine.where
    elif host_of(name) in LOOPBACK:
        name = f"{engine.where}:{name.rpartition(':')[2]}"
    elif host_of(name) != engine.where:
        name = f"{name} ({engine.where})"
    return printable(f"{name} dp{engine.dp_rank}" if ranks else name)


def _footnotes(say: Callable[[str], None], fleet: Fleet, seen: Seen) -> None:
    only_vllm = [each for each in fleet.engines if each.engine.seen_by == "vllm"]
    if only_vllm:
        cannot = dict.fromkeys(text for each in only_vllm for text in each.engine.cannot_say)
        say(f"Engines of which only vLLM's own series tell: {len(only_vllm)}. Not told by them: {'; '.join(cannot)}.")
    if fleet.sums.by_kv_alone:
        say(f"Where max-num-seqs is not known ({fleet.sums.by_kv_alone}), what more fits is counted by KV alone.")
    if seen.copies:
        say(f"Scraped as well as watched by a daemon, and counted once: {seen.copies}.")
    if seen.gone:
        shown = [f"{shown_name(each, ranks=False)} {printable(each.model_name)}".strip() for each in seen.gone[:5]]
        rest = f" and {len(seen.gone) - 5} more" if len(seen.gone) > 5 else ""
        say(f"No longer there: {', '.join(shown)}{rest}.")
