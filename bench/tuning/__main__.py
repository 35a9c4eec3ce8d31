"""Sweeps max_num_seqs on a real vLLM, judges what is advised by the best of the sweep, and writes docs/tuning.md.

``python -m bench.tuning run --vllm .../bin/vllm`` makes the runs that are still missing and writes the report;
``python -m bench.tuning report`` writes it from the runs there are. Every run is written down when it ends, so that a
campaign can be cut off and taken up again. Takes an hour or two, and wall time is not judged.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path

from bench.fidelity.server import QUICK_ENVIRONMENT, serving, write_smaller_model
from bench.page import write_section
from bench.tuning.campaign import OBSERVED_ROUNDS, Visit, observing, sweeping
from bench.tuning.report import report
from bench.tuning.runs import RUNS, Run, append_run, read_runs
from bench.tuning.serve import FLAGS, Server, serve
from bench.tuning.workloads import workloads

_PAGE = Path(__file__).parents[2] / "docs" / "tuning.md"
_LOOKS_AGAIN_SECONDS = 5.0


def main() -> int:
    """Run what is missing if asked to, and write the report."""
    parser = argparse.ArgumentParser(prog="python -m bench.tuning", description=__doc__.partition("\n")[0])
    parser.add_argument("command", choices=["run", "report"])
    parser.add_argument("--vllm", type=Path, default=os.environ.get("VLLM_HEADROOM_TEST_VLLM"), help="its executable")
    parser.add_argument("--runs", type=Path, default=RUNS, help="where runs are written down")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--only", default="", help="names of workloads, separated by commas")
    parser.add_argument("--minutes", type=float, default=240.0, help="begin no further run after so long")
    parser.add_argument("--pause-file", type=Path, help="begin no run while this file exists")
    parser.add_argument("--write", type=Path, default=_PAGE, help="the page whose section is replaced")
    asked = parser.parse_args()
    if asked.command == "run":
        if asked.vllm is None:
            parser.error("--vllm or VLLM_HEADROOM_TEST_VLLM names the executable of a vLLM for the CPU")
        _run(asked)
    write_section(asked.write, report(read_runs(asked.runs)), target="tuning-bench")
    return 0


def _run(asked: argparse.Namespace) -> None:
    until = time.monotonic() + 60 * asked.minutes
    only = {name for name in asked.only.split(",") if name}
    with tempfile.TemporaryDirectory() as directory:
        model = write_smaller_model(Path(asked.vllm), Path(directory) / "model")
        for part in ("observed", "judged"):
            loads = {name: load for name, load in workloads(part).items() if not only or name in only}
            runs = read_runs(asked.runs)
            visits = (
                observing(runs, loads) if part == "observed" else sweeping(runs, loads, repetitions=asked.repetitions)
            )
            with closing(_servers(Path(asked.vllm), model, visits)) as servers:
                for visit, server in servers:
                    for name in visit.workloads:
                        _wait_while(asked.pause_file)
                        if time.monotonic() > until:
                            return
                        load = loads[name]
                        if part == "observed":
                            load = load.repeated(OBSERVED_ROUNDS[visit.max_num_seqs])
                        run = serve(server, load, repetition=visit.repetition)
                        append_run(run, asked.runs)
                        print(_told(run), flush=True)


def _told(run: Run) -> str:
    return (
        f"{run.began} repetition {run.repetition}, max_num_seqs {run.max_num_seqs}, {run.workload}: "
        f"{run.completed} of {run.requests}, {run.steps:.0f} steps, {run.preemptions:.0f} preempted, "
        f"{run.recomputed_tokens} recomputed, stall {run.longest_stall_steps:.0f} steps, {run.wall_seconds:.0f} s"
    )


def _wait_while(file: Path | None) -> None:
    while file is not None and file.exists():
        time.sleep(_LOOKS_AGAIN_SECONDS)


def _servers(vllm: Path, model: Path, visits: Sequence[Visit]) -> Generator[tuple[Visit, Server]]:
    """Yield each visit with a server freshly started for it, one at a time: the machine may be busy with other work."""
    for visit in visits:
        log = model.parent / f"{visit.max_num_seqs}.{visit.repetition}.log"
        limit = ("--max-num-seqs", str(visit.max_num_seqs))
        with serving(vllm, model, *FLAGS, *limit, log=log, environment=QUICK_ENVIRONMENT) as url:
            server = Server(url=url, model=model, log=log, max_num_seqs=visit.max_num_seqs)
            server.warm_up()
            yield visit, server


if __name__ == "__main__":
    sys.exit(main())
