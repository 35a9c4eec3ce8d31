"""``vllm-headroom advise``: what threatens, what to do, and what the memory flags should be, from the load seen."""

import json
import math
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import psutil
import pynvml
from rich.console import Console
from rich.table import Table

from advisor.flag_advice import FlagAdvice
from advisor.policy import Policy
from advisor.pressure import REMEDY
from advisor.readings import EngineProcess
from advisor.report import Engine, EngineAdvice, GpuJudgement, Report, Severity
from advisor.tuning import Observed, SeqsAdvice
from advisor.units import gib, spelled_seconds
from exporter import logs
from exporter.cli.drop_in import drop_in
from exporter.cli.options import LONGEST_SECONDS, Amount, prometheus_option
from exporter.cli.output import WIDTH, paper
from exporter.command_line import server_argv, shell_word, with_flags
from exporter.config import Config, load
from exporter.errors import UsageError
from exporter.service import Published, Service, World
from exporter.sources.start_log import service_of
from exporter.state import LOAD_FILE
from exporter.web.advice import advice
from exporter.words import printable, unread_sources

_WATCH_INTERVAL_SECONDS = 1.0
_WORTH_A_SENTENCE_RATIO = 0.05
"""A factor less likely than this is a figure among figures."""


@click.command(name="advise")
@click.option("--engine", "urls", multiple=True, metavar="URL", help="A vLLM server; default: those on this host.")
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="STATE_DIRECTORY",
    metavar="DIR",
    help="State directory of a running daemon: advice rests on what that has seen.",
)
@click.option(
    "--watch", type=Amount(0, LONGEST_SECONDS), default=0.0, metavar="SECONDS", help="Watch for so long first."
)
@prometheus_option
@click.option("--fleet", is_flag=True, help="Judge every engine that the Prometheus knows, instead of this host's.")
@click.option(
    "--systemd-drop-in",
    "unit",
    is_flag=False,
    flag_value="",
    metavar="[UNIT]",
    help="Print a drop-in for the server's systemd unit instead; UNIT where it cannot be found out.",
)
@click.option("--config", "config_file", type=click.Path(path_type=Path), metavar="FILE", help="YAML file; see docs.")
@click.option("--json", "as_json", is_flag=True, help="Print what /api/v1/advice shows.")
def command(
    urls: tuple[str, ...],
    state_dir: Path | None,
    watch: float,
    prometheus_url: str | None,
    fleet: bool,
    unit: str | None,
    config_file: Path | None,
    as_json: bool,
) -> None:
    """Say what threatens each GPU and engine, what to do, and what max-num-seqs and other memory flags should be.

    One look tells little: give the state directory of a daemon that has watched the server, a --prometheus that has
    scraped it, or --watch long enough. With --fleet the Prometheus alone is asked, of every engine that it knows.
    Exit status 0: nothing to do; 1: something should be done or changed, or nothing can be advised yet.
    """
    logs.configure("error", "logfmt")
    given: dict[str, Any] = {
        "engines": [{"url": url} for url in urls] or None,
        "poll_interval": _WATCH_INTERVAL_SECONDS if watch else None,
        "state_dir": state_dir,
        "prometheus": {"url": prometheus_url} if prometheus_url else None,
    }
    if unit is not None and (as_json or fleet):
        raise UsageError("--systemd-drop-in prints a drop-in: it goes with neither --json nor --fleet")
    config = load(config_file, given)
    if fleet:
        from exporter.cli.fleet import run_fleet

        sys.exit(run_fleet(config, as_json=as_json))
    if state_dir is not None:
        _mention_missing_load(state_dir)
    world = World(nvml=pynvml, processes=psutil)
    sys.exit(run(config, world, watch_seconds=watch, as_json=as_json, unit=unit))


def _mention_missing_load(state_dir: Path) -> None:
    """Say that there is nothing to rest advice on, before it says that it has seen no load."""
    try:
        with (state_dir / f"{LOAD_FILE}.json").open("rb"):
            return
    except OSError as error:
        click.echo(f"note: --state-dir: {error.filename}: {error.strerror}: no daemon's load is read", err=True)


def run(config: Config, world: World, *, watch_seconds: float, as_json: bool, unit: str | None = None) -> int:
    """Look, print the advice, and return the exit status.

    Args:
        config: What to look at.
        world: Where.
        watch_seconds: How long first; 0: one look.
        as_json: Whether as JSON.
        unit: A systemd unit: print drop-ins for it; empty: for the unit that is found; None: print text.

    Raises:
        UsageError: A key cannot be read, or one unit is named for several servers.
    """
    service = Service(config, world, keeps_state=False)
    try:
        published = _watched(service, watch_seconds) if watch_seconds else service.once()
    finally:
        service.stop()
    for engine, problem in service.past_problems.items():
        click.echo(f"no history of {engine}: {printable(problem)}", err=True)
    for engine, warnings in service.past_warnings.items():
        for warning in warnings:
            click.echo(f"note: history of {engine}: {printable(warning)}", err=True)
    report = published.report
    down = [engine for engine in report.engines if not engine.up]
    unread = unread_sources({"collector": each.collector, "failing": each.failing} for each in service.health())
    for source in unread:
        click.echo(f"not read in full: {printable(source)}", err=True)
    if as_json:
        click.echo(json.dumps(advice(published, service.policy), indent=2))
    elif unit is not None:
        _show_drop_ins(published, world, unit)
    else:
        console = paper()
        _show(console, published, down, world, service.policy)
    settled = report.advice and all(each.seqs is not None and not _changes(each) for each in report.advice)
    troubled = any(finding.severity is not Severity.INFO for finding in report.findings)
    return int(bool(down or unread) or not settled or troubled)


def _watched(service: Service, seconds: float) -> Published:
    service.start()
    end = time.monotonic() + seconds
    with Console(stderr=True).status("watching") as shown:  # on a terminal; nothing elsewhere
        while (left := end - time.monotonic()) > 0:
            shown.update(f"watching for another {spelled_seconds(math.ceil(left))}")
            time.sleep(min(1.0, left))
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


def _show(console: Console, published: Published, down: list[Engine], world: World, policy: Policy) -> None:
    report = published.report
    split = {gpu.uuid for gpu in published.snapshot.gpus if gpu.mig == "parent"}
    for gpu in report.gpus:
        if gpu.uuid not in split:  # its instances have the memory
            _show_gpu(console, gpu, report, policy)
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
        _show_outlook(console, engine, each.preemption_because)
        _show_findings(console, report, engine.engine)
        if _changes(each):
            _show_instead(console, _instead(each))
            _show_command(console, published, each, world)
        console.print()
    for engine in down:
        reasons = ", ".join(engine.failing or {}) or "no reason known"
        _say(console, f"{engine.engine}: does not answer ({reasons}).")
        _show_findings(console, report, engine.engine)
    if not report.engines:
        _say(console, "No vLLM server runs on this host; name one with --engine.")


def _show_gpu(console: Console, gpu: GpuJudgement, report: Report, policy: Policy) -> None:
    """Print the risk, every factor's figure, and of those that matter why and what to do."""
    factors = sorted((gpu.oom_risk_factor_ratio or {}).items(), key=lambda pair: -pair[1])
    if gpu.oom_risk_ratio is None or not factors:
        _say(console, f"GPU {gpu.gpu}: how much is free is not known, and so no risk.")
        return
    console.print(f"GPU {gpu.gpu}", style="bold", markup=False)
    figures = ", ".join(f"{factor} {ratio:.2f}" for factor, ratio in factors)
    within = spelled_seconds(policy.oom_horizon_seconds)
    _say(console, f"Out of memory within {within} with probability {gpu.oom_risk_ratio:.2f}: {figures}.")
    _say(console, " ".join(_room(gpu, report)))
    _say(console, _ledger(gpu))
    for factor, ratio in factors:
        if ratio >= _WORTH_A_SENTENCE_RATIO:
            _say(console, f"{factor}: {report.factor_sentences[gpu.uuid, factor]}.", indent=2)
            _say(console, f"To do: {report.factor_remedies[gpu.uuid, factor]}.", indent=4)
    _show_findings(console, report, f"GPU {gpu.gpu}", but=("gpu_oom_risk",))
    console.print()


def _ledger(gpu: GpuJudgement) -> str:
    """Say who holds this GPU and how much each engine may come to hold: above the total it is over-committed."""
    claims, budgets = gpu.engine_claim_bytes or {}, gpu.engine_budget_bytes or {}
    parts = []
    told = gpu.engine_held_bytes or {}
    for engine, held in told.items():
        asks = f" (its budget: {gib(budgets[engine])})" if engine in budgets else ""
        parts.append(f"{engine} holds {gib(held)} and may come to {gib(held + claims.get(engine, 0.0))}{asks}")
    parts += [
        f"what {engine} holds the driver does not tell (its budget: {gib(asked)})"
        for engine, asked in budgets.items()
        if engine not in told
    ]
    components = gpu.memory_component_bytes or {}
    in_all = ""
    if gpu.memory_slack_bytes is not None:
        parts.append(f"other processes hold {gib(components.get('foreign', 0.0))}")
        total = sum(components.values())
        in_all = f"; in all, with the driver's part, {gib(total - gpu.memory_slack_bytes)} of {gib(total)}"
    return f"Claims: {', '.join(parts)}{in_all}."


def _room(gpu: GpuJudgement, report: Report) -> Iterator[str]:
    slack, lowest = gpu.memory_slack_bytes, gpu.memory_slack_low_bytes
    if slack is not None:
        low = f", {gib(lowest)} at its lowest" if lowest is not None else ""
        yield f"Slack: {gib(slack)}{low}."
    ahead, lower, upper = gpu.time_to_oom_seconds, gpu.time_to_oom_lower_seconds, gpu.time_to_oom_upper_seconds
    if ahead is None or lower is None or upper is None:
        yield "Growth cannot be told yet."
    elif math.isinf(ahead):
        yield "Nothing grows."
    elif ahead > 0:
        bounds = f"between {spelled_seconds(lower)} and {spelled_seconds(upper)}"
        lasted = spelled_seconds(gpu.memory_growth_lasted_seconds or 0.0)
        yield f"If the growth of the last {lasted} goes on, memory ends in {spelled_seconds(ahead)} ({bounds})."
    culprit = report.culprits.get(gpu.uuid)
    if culprit is not None:
        yield f"Behind it: {culprit.spelled}."


def _show_findings(console: Console, report: Report, subject: str, *, but: tuple[str, ...] = ()) -> None:
    for finding in report.findings:
        if finding.subject == subject and finding.rule not in but:
            _say(console, f"{finding.severity}: {finding.summary}.", indent=2)
            _say(console, f"To do: {finding.advice}.", indent=4)


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


def _show_outlook(console: Console, engine: Engine, because: str | None) -> None:
    if engine.restart_fits is not None:
        missing = engine.restart_shortfall_bytes or 0.0
        verdict = "would pass" if engine.restart_fits else f"would fail for {gib(missing)} too little"
        _say(console, f"A restart with the same flags {verdict}.")
    ahead = engine.time_to_kv_exhaustion_seconds
    if engine.preemption_risk_ratio is not None and ahead is not None:
        full = "not within an hour" if math.isinf(ahead) else f"in {spelled_seconds(ahead)}"
        _say(console, f"A preemption is to come with probability {engine.preemption_risk_ratio:.2f}; KV full: {full}.")
        if because is not None and engine.preemption_risk_ratio >= _WORTH_A_SENTENCE_RATIO:
            _say(console, f"{because}.", indent=2)
            _say(console, f"To do: {REMEDY}.", indent=4)
    drain, growth = engine.queue_drain_seconds, engine.demand_growth_per_second
    if engine.requests_waiting and drain is not None and growth is not None and math.isfinite(drain):
        more = "more" if growth > 0 else "fewer"
        rates = f"{60 * abs(growth):,.1f} {more} come each minute than are finished"
        _say(console, f"{engine.requests_waiting:,.0f} requests wait, {spelled_seconds(drain)} of work; {rates}.")
    if engine.host_memory_limit_bytes is not None and engine.host_memory_used_bytes is not None:
        used, limit = gib(engine.host_memory_used_bytes), gib(engine.host_memory_limit_bytes)
        _say(console, f"Of {limit} of host memory that its cgroup may use, {used} are in use.")


def _show_drop_ins(published: Published, world: World, unit: str) -> None:
    servers: dict[str, EngineAdvice] = {}
    for each in published.report.advice:  # the ranks of one server are started by one command
        if _changes(each) or each.engine not in servers:
            servers[each.engine] = each
    if unit and len(servers) > 1:
        raise UsageError(f"{unit} starts one of {', '.join(servers)}: name it with --engine")
    for each in servers.values():
        server, argv = _started_by(published, each, world)
        found = service_of(server.pids) if server is not None and not unit else None
        name, is_users = found or (unit or None, False)
        click.echo(drop_in(each, _changes(each), argv=argv, unit=name, is_users=is_users))
    if not servers:
        click.echo("# No vLLM server answers.")


def _started_by(
    published: Published, each: EngineAdvice, world: World
) -> tuple[EngineProcess | None, list[str] | None]:
    reading = next(one for one in published.snapshot.engines if one.engine == each.engine)
    server = published.snapshot.server_at(reading.url)
    return server, server_argv(world.processes, server.pids) if server is not None else None


def _show_instead(console: Console, ways: list[FlagAdvice]) -> None:
    if ways:
        names = ", ".join(f"{flag.flag} ({flag.kv_gain_tokens:+,.0f} tokens)" for flag in ways)
        _say(
            console,
            f"More KV instead: {names}. Each is worked out with all else as it is: take one, then look again, for "
            "max-num-seqs would be another.",
        )


def _show_command(console: Console, published: Published, each: EngineAdvice, world: World) -> None:
    _, argv = _started_by(published, each, world)
    if argv is None:
        _say(console, "Its command line cannot be read from here; set the flags where it is started.")
        return
    _say(console, "To paste (nothing is changed for you):")
    for line in pasted([shell_word(word) for word in with_flags(argv, _changes(each))]):
        # Neither broken where a word is longer than the line nor made prettier: what is pasted must stay whole.
        console.out(line, highlight=False)


def pasted(words: list[str]) -> list[str]:
    """Break a command line between quoted words, as a shell continues it."""
    lines: list[list[str]] = [[]]
    for word in words:
        if lines[-1] and len(" ".join([*lines[-1], word])) > WIDTH - 6:
            lines.append([])
        lines[-1].append(word)
    return [f"  {' '.join(line)}" + (" \\" if line is not lines[-1] else "") for line in lines]


def _say(console: Console, text: str, *, indent: int = 0) -> None:
    pad = " " * indent
    width = console.width
    console.print(
        textwrap.fill(text, width, initial_indent=pad, subsequent_indent=pad, break_on_hyphens=False), markup=False
    )
