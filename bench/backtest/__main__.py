"""``python -m bench.backtest``: run the back-test and write its section of docs/risk.md."""

import argparse
import os
from pathlib import Path

from advisor.policy import Policy
from bench.backtest.report import report
from bench.backtest.run import KINDS, run

BEGIN, END = "<!-- written by make backtest: begin -->", "<!-- written by make backtest: end -->"


def main() -> None:
    """Judge all kinds and replace what stands between the marks."""
    parser = argparse.ArgumentParser(prog="python -m bench.backtest", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="histories of each kind")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--write", type=Path, default=Path("docs/risk.md"), help="the page whose section is replaced")
    options = parser.parse_args()
    policy = Policy()
    scores = run(KINDS, seeds=options.seeds, processes=options.processes, policy=policy)
    page = options.write.read_text(encoding="utf-8")
    options.write.write_text(replaced(page, report(scores, policy)), encoding="utf-8")


def replaced(page: str, section: str, *, begin: str = BEGIN, end: str = END) -> str:
    """Return the page with the section between the marks.

    Raises:
        ValueError: The page has no marks.
    """
    before, begun, rest = page.partition(begin)
    _, ended, after = rest.partition(end)
    if not begun or not ended:
        raise ValueError(f"no {begin} and {end} in the page")
    return f"{before}{begin}\n\n{section}\n{end}{after}"


if __name__ == "__main__":
    main()
