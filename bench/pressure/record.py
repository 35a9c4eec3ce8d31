"""Starts the planned servers one after the other, offers each its load, and writes down what the daemon would see."""

import random
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path

from advisor.readings import EngineReading
from advisor.whatif import TracedRequest
from bench.fidelity.server import QUICK_ENVIRONMENT, serving, write_smaller_model
from bench.pressure.plan import SECONDS, Offered, Server, Stretch, warm_up
from bench.pressure.recording import Recording, written
from exporter.bench.client import Client, Planned, Target
from exporter.bench.drive import Drive
from exporter.config import EngineConfig
from exporter.engines import open_connection
from exporter.errors import SourceError
from exporter.sources.vllm import VllmSource
from exporter.traffic import prompts

_EVERY_SECONDS = 1.0
_IDLE_SECONDS = 5.0
"""Looked at before the load begins: a daemon does not meet a server in the middle of its day."""
_EMPTY_WITHIN_SECONDS = 120.0


def record(vllm: Path, servers: Sequence[Server], directory: Path, *, scratch: Path) -> None:
    """Record every stretch of these servers.

    Args:
        vllm: The executable.
        servers: What to start, and what to offer.
        directory: Where the recordings are written.
        scratch: For the model and the servers' logs.

    Raises:
        RuntimeError: A server did not start, or refused what it was offered.
    """
    model = write_smaller_model(vllm, scratch / "model")
    for number, server in enumerate(servers):
        with serving(vllm, model, *server.flags, log=scratch / f"{number}.log", environment=QUICK_ENVIRONMENT) as url:
            _offer(url, iter(warm_up()), until_seconds=3600.0, users=None)
            for stretch in server.stretches:
                _wait_until_idle(url)
                found = _record_one(url, server, stretch)
                (directory / f"{stretch.name}.jsonl.gz").write_bytes(written(found))
                preempted = (
                    found.pages[-1][1].totals["preemptions_total"] - found.pages[0][1].totals["preemptions_total"]
                )
                print(f"{stretch.name}: {len(found.pages)} pages, {preempted:.0f} preemptions", flush=True)


def _record_one(url: str, server: Server, stretch: Stretch) -> Recording:
    begin = time.monotonic()
    pages: list[tuple[float, EngineReading]] = []
    looks = 0
    users = None if isinstance(stretch.offered, Offered) else stretch.offered.users
    # Clients are told to stop a little after the last page, so that it still shows the load.
    load = threading.Thread(
        target=_offer,
        args=(url, stretch.offered.requests()),
        kwargs={"until_seconds": SECONDS, "users": users, "after_seconds": _IDLE_SECONDS},
    )
    load.start()
    with closing(VllmSource(engine="recorded", url=url, connection=open_connection(EngineConfig(url=url)))) as source:
        while (now := time.monotonic() - begin) < _IDLE_SECONDS + SECONDS:
            try:
                (page,) = source.read()
                pages.append((now, page))
            except SourceError as error:  # a server that is slow to answer: the daemon misses that page, too
                print(f"{stretch.name}, {now:.0f} s: {error}", file=sys.stderr)
            looks += 1
            time.sleep(max(0.0, looks * _EVERY_SECONDS + begin - time.monotonic()))
    load.join()
    return Recording(
        name=stretch.name,
        half=stretch.half,
        load=stretch.offered.words,
        max_num_seqs=server.max_num_seqs,
        pages=tuple(pages),
    )


def _offer(
    url: str, requests: Iterator[TracedRequest], *, until_seconds: float, users: int | None, after_seconds: float = 0.0
) -> None:
    """Send requests for so long; what is unanswered then is broken off."""
    time.sleep(after_seconds)
    begin = time.monotonic()

    def clock() -> float:
        return time.monotonic() - begin

    target = Target(url=url, model="tiny", timeout_seconds=600.0)
    drive = Drive(new_client=lambda: Client(target, clock=clock), clock=clock)
    chance = random.Random(7)  # noqa: S311 - token ids of made-up prompts

    def planned() -> Iterator[tuple[float, Planned]]:
        for each in requests:
            (prompt,) = prompts([each], shared_prefix_tokens=0, chance=chance)
            yield each.seconds, Planned(prompt=prompt, output_tokens=each.output_tokens)

    end = threading.Timer(until_seconds, drive.stop)
    end.start()
    try:
        if users is None:
            drive.open(planned(), until_seconds=until_seconds)
        else:
            drive.closed((due for _, due in planned()), users=users, until_seconds=until_seconds)
    finally:
        end.cancel()
    if drive.gave_up:
        raise RuntimeError(f"{url} refused everything that it was offered")
    if drive.held_back:
        print(f"{drive.held_back} requests were sent late", file=sys.stderr)


def _wait_until_idle(url: str) -> None:
    end = time.monotonic() + _EMPTY_WITHIN_SECONDS
    with closing(VllmSource(engine="recorded", url=url, connection=open_connection(EngineConfig(url=url)))) as source:
        while time.monotonic() < end:
            with suppress(SourceError):
                (page,) = source.read()
                if page.requests_running == 0 and page.requests_waiting == 0:
                    return
            time.sleep(_EVERY_SECONDS)
    raise RuntimeError(f"{url} does not become idle")
