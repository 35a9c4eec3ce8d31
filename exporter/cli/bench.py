"""``vllm-headroom bench``: a load test of a running server, from the client's side and from its own metrics."""

import dataclasses
import json
import random
import signal
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import psutil
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from advisor.loadtest import End, Knee, Level, find_knee, level_of, stretches_of
from advisor.step_times import fit_step_times
from advisor.whatif import MOST_TOKENS, TracedRequest, fitted
from exporter.bench.client import Client, Planned, Target
from exporter.bench.drive import MOST_USERS, Drive
from exporter.bench.watch import Watch
from exporter.cli.options import FACTOR, LONGEST_SECONDS, Amount
from exporter.config import EngineConfig, named_engine
from exporter.engines import api_key, local_flags, open_connection
from exporter.errors import SourceError, UsageError
from exporter.sources.vllm import VllmSource
from exporter.traffic import made_up, numbers, prompts, traced

_REQUESTS_A_USER = 10
_LEAST_REQUESTS = 20
_OPEN_REQUESTS = 200
_MOST_REQUESTS = 100_000
_MOST_OUTPUT_TOKENS = 5_000_000
"""The moment of each is kept: some hundred bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Server:
    """What the server says of itself before the test."""

    url: str
    model: str
    vllm_version: str | None
    max_model_len: int | None
    max_num_seqs: int | None
    """None where it runs elsewhere or its command line does not say."""
    kv_capacity_tokens: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Load:
    """One level of load to drive."""

    users: int | None
    trace: Sequence[TracedRequest]


@click.command(name="bench")
@click.option("--url", default="http://127.0.0.1:8000", show_default=True, metavar="URL", help="The vLLM server.")
@click.option("--model", metavar="NAME", help="As the server calls it; default: the first it names.")
@click.option("--api-key-file", type=click.Path(path_type=Path), metavar="FILE", help="Holds the server's API key.")
@click.option("--ca-file", type=click.Path(path_type=Path), metavar="FILE", help="Its own certificate authority.")
@click.option("--users", metavar="N[,N...]", help="Clients that each send one request after another; several: a ramp.")
@click.option("--rate", type=FACTOR, metavar="R", help="Requests a second instead.")
@click.option("--trace", type=click.Path(path_type=Path), metavar="FILE", help="CSV or JSON lines: time and lengths.")
@click.option("--speed", type=FACTOR, metavar="F", help="Play a trace F times as fast.")
@click.option("--scale-lengths", type=float, default=1.0, metavar="F", help="Factor of the trace's lengths.")
@click.option("--requests", type=click.IntRange(1, _MOST_REQUESTS), metavar="N", help="Most requests of a level.")
@click.option(
    *("--duration", "duration_seconds"),
    type=Amount(0, LONGEST_SECONDS, min_open=True),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Of a level: then no more are sent.",
)
@click.option(
    *("--timeout", "timeout_seconds"),
    type=Amount(0, LONGEST_SECONDS, min_open=True),
    default=120.0,
    show_default=True,
    metavar="SECONDS",
    help="For one request.",
)
@click.option("--prompt-tokens", type=click.IntRange(1, MOST_TOKENS), default=512, show_default=True, metavar="N")
@click.option("--output-tokens", type=click.IntRange(1, MOST_TOKENS), default=128, show_default=True, metavar="N")
@click.option("--shared-prefix-tokens", type=click.IntRange(min=0), default=0, metavar="N", help="Of every prompt.")
@click.option("--seed", type=int, metavar="N", help="Same prompts as another run; they may then be cached.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    url: str,
    model: str | None,
    api_key_file: Path | None,
    ca_file: Path | None,
    users: str | None,
    rate: float | None,
    trace: Path | None,
    speed: float | None,
    scale_lengths: float,
    requests: int | None,
    duration_seconds: float,
    timeout_seconds: float,
    prompt_tokens: int,
    output_tokens: int,
    shared_prefix_tokens: int,
    seed: int | None,
    as_json: bool,
) -> None:
    """Load a running server and say what its users got: vllm-headroom bench --users 1,2,4,8,16.

    With --users each client sends its next request when the last is answered; with --rate or --trace requests come
    when they are due. Prompts are random token ids of exact length, outputs have the length asked for. Ctrl-C or
    SIGTERM ends the test with the report so far. Exit status: 0 all requests succeeded, 1 some failed or the test was
    interrupted, 2 wrong use.
    """
    chance = random.Random(seed)  # noqa: S311 - token ids of made-up prompts
    loads = _loads(
        users=users,
        rate=rate,
        trace=trace,
        speed=speed,
        scale_lengths=scale_lengths,
        requests=requests,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        chance=chance,
    )
    config = named_engine("--url", url, api_key_file=api_key_file, ca_file=ca_file)
    server = _ask(config, model)
    if server.max_model_len is not None:
        loads, notes = _fit(loads, server.max_model_len)
    else:
        notes = []
    _refuse_endless(loads)
    target = Target(
        url=server.url,
        model=server.model,
        api_key=api_key(config),
        # None is the usual authorities; one of its own that cannot be used has been refused above.
        context=ssl.create_default_context(cafile=config.ca_file) if config.url.startswith("https:") else None,
        timeout_seconds=timeout_seconds,
    )
    console = Console(stderr=True, highlight=False, emoji=False)
    for line in _announce(server, loads, duration_seconds):
        console.print(line, style="dim", markup=False)
    bench = _Bench(
        config,
        target,
        duration_seconds=duration_seconds,
        shared_prefix_tokens=shared_prefix_tokens,
        chance=chance,
        console=console,
    )
    with _ended_by_sigterm():
        bench.run(loads)
    knee = find_knee(bench.levels, max_num_seqs=server.max_num_seqs) if len(bench.levels) > 1 else None
    if as_json:
        click.echo(json.dumps(_plain(server, bench, knee, notes + bench.notes), indent=2))
    else:
        from exporter.cli.bench_table import show

        show(bench.levels, knee=knee, max_num_seqs=server.max_num_seqs, notes=notes + bench.notes)
    sys.exit(0 if bench.good else 1)


def _loads(
    *,
    users: str | None,
    rate: float | None,
    trace: Path | None,
    speed: float | None,
    scale_lengths: float,
    requests: int | None,
    prompt_tokens: int,
    output_tokens: int,
    chance: random.Random,
) -> list[_Load]:
    if users is None and rate is None and trace is None:
        raise UsageError("--users, --rate or --trace is needed: how many clients, or when requests come")
    if users is not None and rate is not None:
        raise UsageError("--users and --rate: clients that wait for answers have no rate of their own, give one")
    if speed is not None and trace is None:
        raise UsageError("--speed: it is the pace of a --trace")
    counts = numbers(users, "--users", most=MOST_USERS) if users is not None else ()
    if trace is not None:
        most = requests or (max(_requests_of(count) for count in counts) if counts else _OPEN_REQUESTS)
        sized = traced(trace, limit=most, lengths=scale_lengths, speed=speed, rate=rate)
    else:
        sized = made_up(
            count=1 if counts else requests or _OPEN_REQUESTS,
            rate=rate or 1.0,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            chance=chance,
        )
    if not counts:
        return [_Load(users=None, trace=sized)]
    # Clients that wait for answers take the lengths alone, again from the start when the trace is over.
    return [_Load(users=count, trace=tuple(islice(cycle(sized), requests or _requests_of(count)))) for count in counts]


def _refuse_endless(loads: Sequence[_Load]) -> None:
    tokens = sum(each.output_tokens for load in loads for each in load.trace)
    if tokens > _MOST_OUTPUT_TOKENS:
        raise UsageError(
            f"{tokens:,} output tokens are more than this measures at a time ({_MOST_OUTPUT_TOKENS:,}): give fewer "
            "--requests"
        )


def _requests_of(users: int) -> int:
    return max(_LEAST_REQUESTS, _REQUESTS_A_USER * users)


def _fit(loads: list[_Load], max_model_len: int) -> tuple[list[_Load], list[str]]:
    """Leave out what the server would refuse, so that it is not taken for a failure."""
    fits = [(load.users, *fitted(load.trace, max_model_len)) for load in loads]
    refused = sum(count for *_, count in fits)
    if any(not served for _, served, _ in fits):
        raise UsageError(f"every prompt is longer than the server's max-model-len of {max_model_len:,} tokens")
    note = f"{refused} requests were not sent: their prompts leave no room within max-model-len ({max_model_len:,})."
    return [_Load(users=users, trace=served) for users, served, _ in fits], [note] if refused else []


def _ask(config: EngineConfig, model: str | None) -> _Server:
    """Ask the server who it is.

    Raises:
        UsageError: Nothing answers there, or no model is named.
    """
    with closing(
        VllmSource(engine=urlsplit(config.url).netloc, url=config.url, connection=open_connection(config))
    ) as source:
        try:
            reading = source.read()[0]
        except SourceError as error:
            if model is None:
                raise UsageError(f"{config.url}: no vLLM server answers there ({error.reason})") from error
            reading = None
    served = model or (reading.model_name if reading else "")
    if not served:
        raise UsageError(f"{config.url}: the server names no model, give --model")
    cache = reading.cache if reading else None
    flags = local_flags(config.url, psutil)
    return _Server(
        url=config.url,
        model=served,
        vllm_version=reading.vllm_version if reading else None,
        max_model_len=reading.max_model_len if reading else None,
        max_num_seqs=flags.max_num_seqs if flags else None,
        kv_capacity_tokens=cache.kv_cache_size_tokens if cache else None,
    )


def _announce(server: _Server, loads: Sequence[_Load], duration_seconds: float) -> Iterator[str]:
    """Say what will be sent, and where, before any of it is."""
    count = sum(len(load.trace) for load in loads)
    prompt = sum(each.prompt_tokens for load in loads for each in load.trace)
    output = sum(each.output_tokens for load in loads for each in load.trace)
    who = (
        f"by {', '.join(str(load.users) for load in loads)} user{'' if loads[-1].users == 1 else 's'}"
        if loads[0].users
        else "when they are due, answered or not"
    )
    yield (
        f"Sends up to {count:,} requests ({prompt:,} prompt and {output:,} output tokens) to {server.model} at "
        f"{server.url}, {who}, for up to {duration_seconds:,.0f} s{' a level' if len(loads) > 1 else ''}. "
        "Ctrl-C or SIGTERM ends it with the report so far."
    )


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM, which ``timeout`` and batch schedulers send, end the test as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Bench:
    """A test under way."""

    def __init__(
        self,
        config: EngineConfig,
        target: Target,
        *,
        duration_seconds: float,
        shared_prefix_tokens: int,
        chance: random.Random,
        console: Console,
    ) -> None:
        self.levels: list[Level] = []
        self.notes: list[str] = []
        self.interrupted = False
        self._target = target
        self._duration = duration_seconds
        self._shared_prefix_tokens = shared_prefix_tokens
        self._chance = chance
        self._console = console
        begin = time.monotonic()
        self._clock: Callable[[], float] = lambda: time.monotonic() - begin
        source = VllmSource(engine="bench", url=config.url, connection=open_connection(config))
        self.watch = Watch(source, self._clock)

    @property
    def good(self) -> bool:
        """Whether every request that ended by itself succeeded, and some did."""
        ended = [level.success_ratio for level in self.levels]
        return not self.interrupted and bool(ended) and all(ratio == 1.0 for ratio in ended)

    def run(self, loads: Sequence[_Load]) -> None:
        """Drive one level after another; an interrupt ends the test with what there is."""
        try:
            with self.watch:
                for load in loads:
                    if not self._level(load):
                        break
        except KeyboardInterrupt:  # between two levels
            self.interrupted = True
        if self.interrupted:
            self.notes.append("Interrupted: this is the report so far.")
        if self.watch.problem is not None and not self.watch.looks:
            self.notes.append(f"The server's metrics could not be read ({self.watch.problem}).")

    def _level(self, load: _Load) -> bool:
        """Drive one level; say whether there is sense in another."""
        drive = Drive(new_client=lambda: Client(self._target, clock=self._clock), clock=self._clock)
        begin = self._clock()
        self.watch.look()
        planned = (
            Planned(prompt=prompt, output_tokens=each.output_tokens)
            for each, prompt in zip(
                load.trace,
                prompts(load.trace, shared_prefix_tokens=self._shared_prefix_tokens, chance=self._chance),
                strict=True,
            )
        )
        done = threading.Event()
        shown = threading.Thread(target=self._show_progress, args=(drive, load, done), daemon=True)
        shown.start()
        try:
            if load.users is not None:
                drive.closed(planned, users=load.users, until_seconds=begin + self._duration)
            else:
                due = zip((each.seconds for each in load.trace), planned, strict=True)
                drive.open(due, until_seconds=self._duration)
            self.watch.look()
        except KeyboardInterrupt:
            self.interrupted = True
            with suppress(KeyboardInterrupt):  # who cannot wait for the requests under way gets the rest at once
                drive.stop()
                self.watch.look()
        finally:
            done.set()
            shown.join()
        samples = tuple(drive.samples)  # a request that was left behind may still end
        level = level_of(
            samples,
            self.watch.between(begin, self._clock()),
            users=load.users,
            steady_until_seconds=drive.steady_until_seconds,
        )
        if samples:
            self.levels.append(level)
        self._note(drive, level, load)
        return not (self.interrupted or drive.gave_up)

    def _note(self, drive: Drive, level: Level, load: _Load) -> None:
        if drive.gave_up:
            self.notes.append(f"Ended early: the first requests all failed ({level.failures[0][0]}).")
        if drive.held_back:
            self.notes.append(
                f"{drive.held_back} requests were sent late: as many as this program keeps under way were unanswered."
            )
        if level.completed and not level.exact_tokens:
            self.notes.append("The server does not count tokens in its answers: pieces of text were counted.")

    def _show_progress(self, drive: Drive, load: _Load, done: threading.Event) -> None:
        if not self._console.is_terminal:
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[state]}"),
        )
        what = f"{load.users} users" if load.users else "requests"
        with Progress(*columns, console=self._console, transient=True) as progress:
            task = progress.add_task(what, total=len(load.trace), state="")
            while not done.wait(0.25):
                samples = tuple(drive.samples)
                failed = sum(each.end is End.FAILED for each in samples)
                look = self.watch.looks[-1] if self.watch.looks else None
                state = [f"{drive.in_flight} under way"]
                if failed:
                    state.append(f"{failed} failed")
                if look is not None and look.waiting is not None and look.kv_usage_ratio is not None:
                    state.append(f"{look.waiting:.0f} wait, KV {look.kv_usage_ratio:.0%}")
                progress.update(task, completed=len(samples), state=", ".join(state))


def _plain(server: _Server, bench: _Bench, knee: Knee | None, notes: Sequence[str]) -> dict[str, Any]:
    fit = fit_step_times(stretches_of(bench.watch.looks))
    return {
        "server": dataclasses.asdict(server),
        "levels": [dataclasses.asdict(level) | {"failures": dict(level.failures)} for level in bench.levels],
        "knee": dataclasses.asdict(knee) if knee else None,
        "step_times": dataclasses.asdict(fit) if fit else None,
        "interrupted": bench.interrupted,
        "notes": list(notes),
    }
