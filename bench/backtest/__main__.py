"""``python -m bench.backtest``: run the back-test and write its section of docs/risk.md."""

import argparse
import os
from pathlib import Path

from advisor.policy import Policy
from bench.backtest.report import report
from bench.backtest.run import KINDS, run
from bench.page import write_section


def main() -> None:
    """Judge all kinds and replace what stands between the marks."""
    parser = argparse.ArgumentParser(prog="python -m bench.backtest", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="histories of each kind")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--write", type=Path, default=Path("docs/risk.md"), help="the page whose section is replaced")
    options = parser.parse_args()
    policy = Policy()
    scores = run(KINDS, seeds=options.seeds, processes=options.processes, policy=policy)
    write_section(options.write, report(scores, policy), target="backtest")


if __name__ == "__main__":
    main()
