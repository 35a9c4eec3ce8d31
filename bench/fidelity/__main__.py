"""Loads a real vLLM, simulates the same load, and writes down how far the two lie apart.

``python -m bench.fidelity --vllm .../bin/vllm [--trace FILE]``. Step times are the only thing taken from the real run:
who runs, who waits and who is preempted is the simulation's own. Takes minutes; the machine should have nothing else
to do, because wall time on a busy one is noise.
"""

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.fidelity.compare import Figure, figures, mean_of, table
from bench.fidelity.server import serving, write_model

_ROOT = Path(__file__).parents[2]
_BLOCK_SIZE = 128
_MAX_MODEL_LEN = 2048
_SPEED = 20.0
_HEAD = """\
# How near the simulation comes to a real vLLM

Written by `make fidelity`, which is

```sh
python -m bench.fidelity --vllm .../bin/vllm {flags}
```

A real vLLM on the CPU with a tiny model of random weights and {blocks} blocks of {block_size} tokens gets {what},
played {speed:g} times as fast (`bench --trace`). The same requests go through `simulate`. Only how long a step takes is
taken from the real run, as a model with four parts fitted to the server's own counters; who runs, who waits and who is
preempted is the simulation's own.

Counts are exact on both sides, except for the server's gauges, which are looked at four times a second and show the
state before a step until it is done; the simulation's means and peaks are those that its metrics would have shown.
Means of steps do not depend on how long steps take. Wall time is noise: the server, its clients and whatever else the
machine does share its cores, and the same load can take ten times as long in the next run. The requests arrive within
seconds, so that counts hardly depend on it; only the order in which a burst gets in differs from run to run.

The scheduler itself is equal to vLLM's own on every recorded step (`tests/advisor/test_simulate.py`).

"""


def main() -> int:
    """Compare at each setting; return 1 if a figure is further off than aimed for."""
    parser = argparse.ArgumentParser(prog="python -m bench.fidelity", description=__doc__.partition("\n")[0])
    parser.add_argument("--vllm", type=Path, default=os.environ.get("VLLM_HEADROOM_TEST_VLLM"), help="its executable")
    parser.add_argument("--trace", type=Path, help="requests; default: made up, with lengths like a conversation's")
    parser.add_argument("--cite", default="", help="where the trace is from, for the report")
    parser.add_argument("--scale-lengths", type=float, default=0.25, help="factor of a trace's lengths")
    parser.add_argument("--requests", type=int, default=160)
    parser.add_argument("--runs", type=int, default=3, help="of each setting; their means are compared")
    parser.add_argument("--blocks", type=int, default=96, help="blocks of the KV cache")
    parser.add_argument("--max-num-seqs", default="64,16", help="settings, one server each")
    parser.add_argument("--output", type=Path, default=_ROOT / "docs" / "simulation.md")
    asked = parser.parse_args()
    if asked.vllm is None:
        parser.error("--vllm or VLLM_HEADROOM_TEST_VLLM names the executable of a vLLM for the CPU")
    report: list[str] = []
    good = True
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        model = write_model(Path(asked.vllm), folder / "model")
        trace, scale = (asked.trace, asked.scale_lengths) if asked.trace else (_made_up(folder / "trace.csv"), 1.0)
        for seqs in asked.max_num_seqs.split(","):
            flags = [
                *("--num-gpu-blocks-override", str(asked.blocks), "--block-size", str(_BLOCK_SIZE)),
                *("--max-model-len", str(_MAX_MODEL_LEN), "--max-num-seqs", seqs),
            ]
            load = ["--trace", str(trace), "--requests", str(asked.requests), "--scale-lengths", str(scale)]
            with serving(Path(asked.vllm), model, *flags, log=folder / f"{seqs}.log") as url:
                # The first steps of a fresh server take seconds each: they are no part of the load.
                _ours(folder / "warm.json", "bench", "--url", url, "--users", "4", "--requests", "20")
                busy_before = os.getloadavg()[0]
                reals = [
                    _ours(
                        folder / f"{seqs}.{run}.json",
                        *("bench", "--url", url, *load, "--speed", str(_SPEED)),
                        *("--duration", "3600", "--timeout", "3600"),
                    )
                    for run in range(asked.runs)
                ]
            simulations = [
                _ours(
                    folder / f"{seqs}.{run}.simulated.json",
                    *("simulate", *load, "--speed", str(_SPEED), "--step-times", str(folder / f"{seqs}.{run}.json")),
                    *("--kv-tokens", str((asked.blocks - 1) * _BLOCK_SIZE), "--block-size", str(_BLOCK_SIZE)),
                    *("--max-model-len", str(_MAX_MODEL_LEN), "--max-num-seqs", seqs, "--no-async-scheduling"),
                    *("--vllm-version", real["server"]["vllm_version"]),
                )
                for run, real in enumerate(reals)
            ]
            found = mean_of([figures(*pair) for pair in zip(reals, simulations, strict=True)])
            good = good and all(each.good for each in found)
            section = [*_section(seqs, found, reals, busy_before), ""]
            report += section
            print("\n".join(section), flush=True)
    asked.output.write_text("\n".join([*_head(asked), *report]), encoding="utf-8")
    return 0 if good else 1


def _ours(result: Path, *words: str) -> dict[str, Any]:
    """Run one of our own commands and return its JSON."""
    with result.open("w", encoding="utf-8") as output:
        subprocess.run(  # noqa: S603 - our own program
            [sys.executable, "-m", "exporter", words[0], "--json", *words[1:]], stdout=output, cwd=_ROOT, check=True
        )
    answer: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return answer


def _made_up(file: Path) -> Path:
    """Write a trace with log-normal lengths: medians of 180 and 45 tokens, as a scaled-down conversation's."""
    chance = random.Random(1)  # noqa: S311 - lengths of made-up requests
    seconds = 0.0
    with file.open("w", encoding="utf-8", newline="") as output:
        rows = csv.writer(output)
        rows.writerow(["seconds", "prompt_tokens", "output_tokens"])
        for _ in range(2000):
            seconds += chance.expovariate(5.0)
            rows.writerow(
                [
                    f"{seconds:.3f}",
                    max(1, int(chance.lognormvariate(5.2, 0.9))),
                    max(1, int(chance.lognormvariate(3.8, 0.8))),
                ]
            )
    return file


def _head(asked: argparse.Namespace) -> list[str]:
    scaled = f"lengths x {asked.scale_lengths:g}"
    what = (
        f"the first {asked.requests} requests of `{asked.trace.name}` ({scaled})"
        if asked.trace
        else f"{asked.requests} made-up requests with log-normal lengths"
    )
    more = f" --trace .../{asked.trace.name} --scale-lengths {asked.scale_lengths:g}" if asked.trace else ""
    sizes = f"--runs {asked.runs} --requests {asked.requests} --blocks {asked.blocks}"
    text = _HEAD.format(
        flags=f"{sizes} --max-num-seqs {asked.max_num_seqs}{more}",
        blocks=asked.blocks,
        block_size=_BLOCK_SIZE,
        what=what,
        speed=_SPEED,
    )
    return [*text.splitlines(), *([f"Trace: {asked.cite}", ""] if asked.cite else [])]


def _section(seqs: str, found: tuple[Figure, ...], reals: list[dict[str, Any]], busy_before: float) -> list[str]:
    seconds = ", ".join(f"{real['levels'][0]['duration_seconds']:,.0f}" for real in reals)
    errors = ", ".join(f"{real['step_times']['error_ratio']:.0%}" for real in reals)
    return [
        f"## max-num-seqs {seqs}",
        "",
        f"Runs of {seconds} s; load average of the machine before: {busy_before:.1f}.",
        f"Step times are off by {errors} on average within them. Means of the runs:",
        "",
        *table(found),
    ]


if __name__ == "__main__":
    sys.exit(main())
