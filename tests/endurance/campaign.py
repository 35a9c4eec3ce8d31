"""Does every fault of `tests.endurance.faults` to the real daemon and tells what it showed.

``python -m tests.endurance.campaign`` does all of it and writes the "Faults" section of docs/endurance.md; ``make
chaos`` is the same. tests/endurance/test_campaign.py does a short form.
"""

import argparse
import os
import sys
import tempfile
import textwrap
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

from advisor.units import MIB
from tests.endurance.ends import ENDS
from tests.endurance.faults import FAULTS
from tests.endurance.process import forget_peak, peak_resident_bytes
from tests.endurance.report import write_section
from tests.endurance.scene import Scene

MOST_RESIDENT_BYTES = 192 * MIB
"""MemoryHigh= of the service's unit: above it the kernel takes memory back."""
MOST_RECOVERY_INTERVALS = 2.0
_STALE_INTERVALS = 4.5
"""A reading is shown for 2.5 intervals, a judgement on it is made within one more and kept until the next."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the daemon did with one fault."""

    fault: object
    reason: str
    """As it was told; empty where nothing failed."""
    falsehoods: tuple[str, ...]
    recovery_intervals: float
    resident_bytes: int

    @property
    def is_recovered(self):
        return self.recovery_intervals <= MOST_RECOVERY_INTERVALS


def failing(metrics):
    """Return {collector: reasons} of a page."""
    found = {}
    for name, labels in metrics:
        if name == "headroom_collector_failing":
            told = dict(labels)
            found.setdefault(told["collector"], set()).add(told["reason"])
    return found


def try_fault(scene, fault):
    """Do one thing to a daemon that shows everything, and return what it did.

    Raises:
        AssertionError: The fault's reason was not told, or it did not recover in a minute.
    """
    daemon, pid = scene.running, scene.running.process.pid
    scene.wait_until_whole()
    forget_peak(pid)
    before = scene.told
    falsehoods, reasons = [], Counter()
    fault.begin(scene)
    scene.tell()
    began = time.monotonic()
    stale_after = _STALE_INTERVALS * scene.interval_seconds + 1.0
    lost = lost_keys(scene, fault)
    lasts = max(fault.lasts_seconds, stale_after + 2 * scene.interval_seconds)
    while True:
        seconds = time.monotonic() - began
        metrics = daemon.metrics()
        oldest = before if seconds < stale_after else before + 1
        falsehoods += scene.falsehoods(metrics, oldest=oldest)
        told = failing(metrics).get(fault.collector, set())
        reasons.update(told)
        gone = not lost & scene.shown(metrics).keys()
        if seconds >= stale_after and not gone and not fault.only_sometimes:
            falsehoods.append(f"still shown: {sorted(lost & scene.shown(metrics).keys())}")
        if seconds >= lasts and (not fault.reasons or reasons.keys() & set(fault.reasons)):
            break
        assert seconds < 60 + lasts, f"{fault.name}: told {told}, not one of {fault.reasons}; log: {daemon.log[-5:]}"
        time.sleep(min(0.05, scene.interval_seconds / 4))
    if not fault.only_sometimes and not fault.may_lose:
        rest = {key: value for key, value in scene.truth().items() if key not in lost}
        daemon.wait_for(lambda: rest.items() <= scene.shown(daemon.metrics()).items())
    fault.end(scene)
    scene.tell()
    recovery_seconds = scene.wait_until_whole()
    return Outcome(
        fault=fault,
        reason=reasons.most_common(1)[0][0] if reasons else "",
        falsehoods=tuple(dict.fromkeys(falsehoods)),
        recovery_intervals=recovery_seconds / scene.interval_seconds,
        resident_bytes=peak_resident_bytes(pid),
    )


def side_by_side(faults, *, interval_seconds, daemons):
    """Do every fault to one of several daemons; yield (fault, its outcome or the AssertionError) as they come."""
    left, done = SimpleQueue(), SimpleQueue()
    for fault in faults:
        left.put(fault)

    def one_after_the_other():
        with tempfile.TemporaryDirectory() as directory:
            scene = Scene(Path(directory), interval_seconds=interval_seconds)
            try:
                while not left.empty():
                    _until_one_fails(scene, left, done)
            finally:
                scene.close()

    with ThreadPoolExecutor(daemons) as pool:
        workers = [pool.submit(one_after_the_other) for _ in range(min(daemons, len(faults)))]
        for _ in faults:
            while done.empty():
                for worker in workers:
                    if worker.done():
                        worker.result()  # raises what ended it
                time.sleep(0.1)
            yield done.get()


def _until_one_fails(scene, left, done):
    """Go on with one daemon; a fault that it does not survive as it should is the last that is done to it."""
    with scene.daemon(), suppress(Empty):
        while True:
            fault = left.get_nowait()
            try:
                done.put((fault, try_fault(scene, fault)))
            except AssertionError as error:
                done.put((fault, error))
                scene.heal()
                return


def lost_keys(scene, fault):
    """Return which keys of the truth a fault takes away."""
    places = {
        "victim": {scene.victim.uuid},
        "healthy": {scene.healthy.uuid, scene.instance.uuid},
        "server": {scene.server.engine},
        "neighbour": {scene.neighbour.engine},
    }
    names = set().union(*(places[name] for name in fault.loses))
    return {key for key in scene.truth() if key[1] in names}


def try_end(end, interval_seconds):
    """Do what ends a daemon to one of its own; return what it did, in words.

    Raises:
        AssertionError: It did something else.
    """
    with tempfile.TemporaryDirectory() as directory:
        scene = Scene(Path(directory), interval_seconds=interval_seconds)
        try:
            return end.try_it(scene)
        finally:
            scene.close()


def rows(outcomes):
    """Yield the lines of the report's table."""
    yield "| | fault | told | shown again after | most memory |"
    yield "|---|---|---|---|---|"
    for each in outcomes:
        told = each.reason or "nothing to tell"
        yield (
            f"| {each.fault.area} | {each.fault.name} | {told} | {each.recovery_intervals:.1f} intervals "
            f"| {each.resident_bytes / MIB:.0f} MiB |"
        )


def text(outcomes, ends, given):
    """Return the section of the report."""
    most = max(each.resident_bytes for each in outcomes)
    false = sum(len(each.falsehoods) for each in outcomes)
    late = [each for each in outcomes if not each.is_recovered]
    told = "\n".join(rows(outcomes))
    ended = "\n".join(f"| {end.name} | {said} |" for end, said in ends)
    summary = textwrap.fill(
        f"{len(outcomes)} faults were done to {given.daemons} daemons in turn, each on a machine of two GPUs and one "
        f"more that is split by MIG, at an interval of {given.interval:g} s. "
        f"During each, every answer of /metrics was compared with what was true: {false} figures were false, stale or "
        f"impossible. {len(outcomes) - len(late)} of {len(outcomes)} were over for the pages within "
        f"{MOST_RECOVERY_INTERVALS:g} intervals of their end. Most resident memory: {most / MIB:.0f} MiB. The "
        f"machine's load average was {os.getloadavg()[2]:.0f} over the last quarter of an hour, on {os.cpu_count()} "
        "processors.",
        width=120,
    )
    return f"""{summary}

{told}

What ends the process, or meets it at its start:

| | what it does |
|---|---|
{ended}"""


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--interval", type=float, default=2.0, help="seconds between two readings")
    arguments.add_argument("--daemons", type=int, default=4, help="how many at a time, each on a machine of its own")
    arguments.add_argument("--only", default="", help="faults whose name holds this")
    given = arguments.parse_args()
    outcomes, wrong = {}, []
    faults = [fault for fault in FAULTS if given.only in f"{fault.area}: {fault.name}"]
    for fault, outcome in side_by_side(faults, interval_seconds=given.interval, daemons=given.daemons):
        if isinstance(outcome, AssertionError):
            print(f"{fault.name}: {outcome}", flush=True)
            wrong.append(fault.name)
            continue
        outcomes[fault] = outcome
        print(f"{list(rows([outcome]))[-1]} {'; '.join(outcome.falsehoods)[:2000]}", flush=True)
        if outcome.falsehoods or not outcome.is_recovered or outcome.resident_bytes > MOST_RESIDENT_BYTES:
            wrong.append(fault.name)
    ends = []
    for end in ENDS:
        if given.only not in f"end: {end.name}":
            continue
        try:
            ends.append((end, try_end(end, given.interval)))
            print(f"| {end.name} | {ends[-1][1]} |", flush=True)
        except AssertionError as error:
            print(f"{end.name}: {error}", flush=True)
            wrong.append(end.name)
    if not given.only:
        in_order = [outcomes[fault] for fault in faults if fault in outcomes]
        write_section("chaos", text(in_order, ends, given))
    if wrong:
        sys.exit(f"not as it should be: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
