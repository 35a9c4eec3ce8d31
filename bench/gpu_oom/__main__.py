"""``python -m bench.gpu_oom``: fill a GPU until CUDA runs out of memory, and write down what the daemon said before.

It fills the whole GPU, so it refuses one on which anything else runs. The stories: ``leak`` grows until it is full
within five minutes, ``spike`` fills it within seconds, ``arrival`` is a second process that begins to grow beside one
that holds still. Exit status 0: the memory ran out, and what was said is written; 1: it did not; 2: nothing was done.
"""

import argparse
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pynvml

from advisor.policy import Policy
from advisor.units import MIB
from exporter.errors import SourceError
from exporter.sources.nvml import NvmlSource

CALM_SECONDS = 60.0
"""What the daemon sees of the GPU before anything happens on it."""
LEAK_SECONDS = 300.0
SPIKE_SECONDS = 5.0
_SAID = {
    "risk_ratio": "headroom_gpu_oom_risk_ratio",
    "oom_in_seconds": "headroom_gpu_time_to_oom_seconds",
    "free_bytes": "headroom_gpu_memory_free_bytes",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """One look at the daemon's page."""

    seconds: float
    """Since the story began."""
    risk_ratio: float | None
    oom_in_seconds: float | None
    free_bytes: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """How a story went."""

    out_of_memory_seconds: float | None
    """Since the story began; None where the memory did not run out."""
    warned_seconds: float | None
    """When the risk first passed the warning's threshold and stayed above it to the end."""
    critical_seconds: float | None


def told(looks: Sequence[Look], out_of_memory_seconds: float | None, policy: Policy) -> Told:
    """Return when the daemon said what, of the looks before the end."""
    end = out_of_memory_seconds
    before = [look for look in looks if end is None or look.seconds <= end]

    def since(threshold: float) -> float | None:
        first = None
        for look in before:
            if look.risk_ratio is None or look.risk_ratio < threshold:
                first = None
            elif first is None:
                first = look.seconds
        return first

    return Told(
        out_of_memory_seconds=end,
        warned_seconds=since(policy.oom_risk_warning_ratio),
        critical_seconds=since(policy.oom_risk_critical_ratio),
    )


def steps_of(story: str, free_mib: int) -> list[tuple[float, tuple[str, ...]]]:
    """Return what each process of a story is told to do, and how long after the beginning it starts."""

    def grown(hold_mib: int, seconds: float) -> tuple[str, ...]:
        rate = (free_mib - hold_mib) / seconds
        return ("--hold-mib", str(hold_mib), "--grow-mib-per-second", f"{rate:.1f}")

    match story:
        case "leak":
            return [(0.0, grown(free_mib // 5, LEAK_SECONDS))]
        case "spike":
            return [(0.0, grown(free_mib // 5, SPIKE_SECONDS))]
        case _:
            held = free_mib // 2
            return [(0.0, ("--hold-mib", str(held))), (30.0, grown(0, LEAK_SECONDS / 2))]


def main() -> int:
    """Run one story."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_oom", description=__doc__)
    parser.add_argument("--story", choices=("leak", "spike", "arrival"), default="leak")
    parser.add_argument("--gpu", type=int, default=0, help="its number for NVML and CUDA")
    parser.add_argument("--calm-seconds", type=float, default=CALM_SECONDS)
    parser.add_argument("--most-seconds", type=float, default=900.0)
    parser.add_argument("--write", type=Path, default=Path("build/gpu-oom.json"))
    parser.add_argument("--holder", help="a program instead of bench.gpu_oom.holder, which takes the same words")
    given = parser.parse_args()
    free_mib, why_not = _free_mib(given.gpu)
    if why_not is not None:
        print(f"{why_not}: nothing was done.")
        return 2
    holder = [given.holder] if given.holder else [sys.executable, "-m", "bench.gpu_oom.holder"]
    with _daemon() as page, ExitStack() as started:
        time.sleep(given.calm_seconds)
        began = time.monotonic()
        said: list[tuple[float, dict[str, Any]]] = []
        looks: list[Look] = []
        steps = steps_of(given.story, free_mib)
        ended = threading.Event()
        while not ended.is_set() and (seconds := time.monotonic() - began) < given.most_seconds:
            while steps and seconds >= steps[0][0]:
                _start([*holder, "--gpu", str(given.gpu), *steps.pop(0)[1]], began, said, ended, started)
            looks.append(_look(page(), given.gpu, time.monotonic() - began))
            ended.wait(1.0)
    end = next((at for at, line in said if line.get("out_of_memory")), None)
    result = told(looks, end, Policy())
    for name, value in asdict(result).items():
        print(f"{name.removesuffix('_seconds')}: {'never' if value is None else f'{value:.0f} s after the beginning'}")
    given.write.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "story": given.story,
        "told": asdict(result),
        "looks": [asdict(look) for look in looks],
        "processes": [{"seconds": at, **line} for at, line in said],
    }
    given.write.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"Written to {given.write}.")
    return int(end is None)


def _free_mib(gpu: int) -> tuple[int, str | None]:
    """Return the free memory of a GPU that nobody uses, or why it is not to be filled."""
    source = NvmlSource(pynvml)
    try:
        readings = source.read()
    except SourceError as error:
        return 0, str(error)
    finally:
        source.close()
    found = next((each for each in readings.gpus if each.gpu == str(gpu)), None)
    if found is None or found.memory_free_bytes is None:
        return 0, f"there is no GPU {gpu} whose memory can be read"
    users = [each.pid for each in readings.processes if each.uuid == found.uuid]
    if users:
        return 0, f"GPU {gpu} is in use by {len(users)} processes, which would fail with it"
    return found.memory_free_bytes // MIB, None


@contextmanager
def _daemon() -> Iterator[Any]:
    """Run the daemon; yield what reads its page."""
    argv = [sys.executable, "-m", "exporter", "serve", "--web.listen-address", "127.0.0.1:0", "--poll-interval", "1"]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own program
        assert process.stderr is not None
        try:
            address = next(found[0] for line in process.stderr if (found := re.search(r"http://127[^/\s]+/", line)))
            threading.Thread(target=process.stderr.read, daemon=True).start()

            def page() -> str:
                with urlopen(f"{address}metrics", timeout=10) as answer:  # noqa: S310 - loopback
                    text: str = answer.read().decode()
                    return text

            yield page
        finally:
            process.terminate()


def _start(
    argv: Sequence[str],
    began: float,
    said: list[tuple[float, dict[str, Any]]],
    ended: threading.Event,
    started: ExitStack,
) -> None:
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own program
    started.callback(process.wait)
    started.callback(process.kill)

    def follow() -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                content = json.loads(line)
                said.append((time.monotonic() - began, content))
                if content.get("out_of_memory"):
                    ended.set()

    threading.Thread(target=follow, daemon=True).start()


def _look(text: str, gpu: int, seconds: float) -> Look:
    figures: Mapping[str, float | None] = {
        ours: float(found[1])
        if (found := re.search(rf'^{name}\{{[^}}]*gpu="{gpu}"[^}}]*\}} (\S+)$', text, re.MULTILINE))
        else None
        for ours, name in _SAID.items()
    }
    return Look(seconds=seconds, **figures)


if __name__ == "__main__":
    sys.exit(main())
