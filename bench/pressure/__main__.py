"""``python -m bench.pressure``: score simulated and recorded engines and write their section of docs/risk.md."""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from advisor.policy import Policy
from bench.page import write_section
from bench.pressure.plan import REAL_HORIZON_SECONDS, SERVERS
from bench.pressure.record import record
from bench.pressure.recording import Half, read
from bench.pressure.report import Part, parts_of, report
from bench.pressure.score import Story, horizon_policy, told
from bench.pressure.simulated import KINDS, simulated

RECORDINGS = Path(__file__).parent / "recordings"
TUNING_SEEDS = range(6)
_HELD_OUT_FROM = 1000


def main() -> None:
    """Record if asked for; else score and replace what stands between the marks."""
    parser = argparse.ArgumentParser(prog="python -m bench.pressure", description=__doc__)
    parser.add_argument("--seeds", type=int, default=8, help="held-out histories of each simulated kind")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--write", type=Path, default=Path("docs/risk.md"), help="the page whose section is replaced")
    parser.add_argument("--record", action="store_true", help="only record a real vLLM anew: up to an hour")
    parser.add_argument("--vllm", type=Path, default=os.environ.get("VLLM_HEADROOM_TEST_VLLM"), help="its executable")
    parser.add_argument("--servers", type=int, nargs="*", help="record only these of the plan, by number from 0")
    options = parser.parse_args()
    if options.record:
        if options.vllm is None:
            parser.error("--vllm or VLLM_HEADROOM_TEST_VLLM names the executable of a vLLM for the CPU")
        servers = [each for number, each in enumerate(SERVERS) if options.servers is None or number in options.servers]
        with tempfile.TemporaryDirectory() as scratch:
            record(options.vllm, servers, RECORDINGS, scratch=Path(scratch))
        return
    policy = Policy()
    halves: dict[Half, Sequence[int]] = {
        "tuning": TUNING_SEEDS,
        "held out": range(_HELD_OUT_FROM, _HELD_OUT_FROM + options.seeds),
    }
    jobs: list[Callable[[], Story]] = [
        partial(_simulated, kind, seed, half, policy)
        for half, seeds in halves.items()
        for kind in KINDS
        for seed in seeds
    ]
    with ProcessPoolExecutor(options.processes) as pool:
        stories = [each.result() for each in [pool.submit(job) for job in jobs]]
    recorded = [
        told(read(path), horizon_policy(REAL_HORIZON_SECONDS)) for path in sorted(RECORDINGS.glob("*.jsonl.gz"))
    ]
    parts = [
        *parts_of("Simulated scheduler", policy.kv_horizon_seconds, stories),
        Part(title="Real vLLM on the CPU", horizon_seconds=REAL_HORIZON_SECONDS, stories=tuple(recorded)),
    ]
    section = report(parts)
    write_section(options.write, section, target="pressure-backtest")
    sys.stdout.write(section)


def _simulated(kind: str, seed: int, half: Half, policy: Policy) -> Story:
    return told(simulated(kind, seed, half), policy)


if __name__ == "__main__":
    main()
