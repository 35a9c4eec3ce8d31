"""``python -m bench.planning``: measure how long ``plan`` takes to answer, and write it into docs/capacity.md.

Every answer of the first kind is a program of its own, started in turn with the two floors, so that whatever else the
machine does falls on all three alike.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.accuracy.rows import configurations
from bench.page import write_section

_ROWS = 1_000
_COLD_AIM_SECONDS, _BATCH_AIM_SECONDS = 0.3, 5.0
_FLOORS = {"an empty Python": "pass", "Python with the commands' library": "import click"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One program from its start to its end."""

    wall_seconds: float
    cpu_seconds: float


def main() -> None:
    """Measure, then replace what stands between the marks."""
    parser = argparse.ArgumentParser(prog="python -m bench.planning", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--write", type=Path, default=Path("docs/capacity.md"), help="page with the marks")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_section(asked.write, measured(Path(folder), configurations(), rounds=asked.rounds), target="plan-bench")


def measured(folder: Path, configs: Mapping[str, Mapping[str, Any]], *, rounds: int) -> str:
    """Return the section."""
    files = written(folder, configs)
    runs: dict[str, list[Run]] = {name: [] for name in (*_FLOORS, "plan, one model")}
    run(plan("--gpu", "H100 SXM", "--", "serve", str(files[0])))  # compiles what pip compiles as it installs
    for turn in range(rounds):
        for name, code in _FLOORS.items():
            runs[name].append(run((sys.executable, "-c", code)))
        runs["plan, one model"].append(run(plan("--gpu", "H100 SXM", "--", "serve", str(files[turn % len(files)]))))
    batch = folder / "rows.jsonl"
    batch.write_text("\n".join(rows(files)))
    named = f"plan --batch, {_ROWS:,} rows of {len(files)} models"
    runs[named] = [run(plan("--batch", str(batch))) for _ in range(3)]
    aims = {"plan, one model": _COLD_AIM_SECONDS, named: _BATCH_AIM_SECONDS}
    return table(runs, aims)


def written(folder: Path, configs: Mapping[str, Mapping[str, Any]]) -> Sequence[Path]:
    """Write each configuration into a file of its own."""
    files = []
    for number, (_, config) in enumerate(sorted(configs.items())):
        file = folder / f"{number}.json"
        file.write_text(json.dumps(config))
        files.append(file)
    return files


def rows(files: Sequence[Path]) -> Sequence[str]:
    """Return the lines of a batch: all models in turn, each time at another context."""
    return [
        json.dumps(
            {
                "id": number,
                "gpu": "H100 SXM",
                "gpu_count": 8,
                "vllm_version": "0.19.0",
                "model": str(files[number % len(files)]),
                "args": ["--max-model-len", str(1024 + 64 * (number // len(files)))],
            }
        )
        for number in range(_ROWS)
    ]


def plan(*arguments: str) -> tuple[str, ...]:
    """Return the command line of one answer."""
    return (sys.executable, "-m", "exporter", "plan", *arguments)


def run(command: Sequence[str]) -> Run:
    """Run a program to its end. A plan that does not fit ends with 1, one that cannot be made with 2.

    Raises:
        RuntimeError: It ended in another way.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    begin = time.monotonic()
    started = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603 - our own
    _, status, used = os.wait4(started.pid, 0)
    wall = time.monotonic() - begin
    started.returncode = os.waitstatus_to_exitcode(status)
    if started.returncode not in (0, 1, 2):
        raise RuntimeError(f"{' '.join(command)} ended with {started.returncode}")
    return Run(wall_seconds=wall, cpu_seconds=used.ru_utime + used.ru_stime)


def table(runs: Mapping[str, Sequence[Run]], aims: Mapping[str, float]) -> str:
    """Return medians with the least and the most, and what is over the first of them."""
    floor = statistics.median(each.cpu_seconds for each in next(iter(runs.values())))
    lines = [
        "| | runs | seconds, median | least to most | CPU seconds, median | over an empty Python | aim, s | |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for name, each in runs.items():
        walls = [one.wall_seconds for one in each]
        wall, cpu = statistics.median(walls), statistics.median(one.cpu_seconds for one in each)
        aim = aims.get(name)
        said = "" if aim is None else "met" if wall <= aim else "**missed**"
        lines.append(
            f"| {name} | {len(each)} | {wall:.2f} | {min(walls):.2f} to {max(walls):.2f} | {cpu:.2f} | "
            f"{cpu / floor:.1f} | {'' if aim is None else f'{aim:g}'} | {said} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
