"""``python -m bench.live_risk``: play the stories to the whole daemon and write its section of docs/risk.md."""

import argparse
import tempfile
from pathlib import Path

from bench.live_risk.report import report
from bench.live_risk.run import run
from bench.live_risk.story import ALL
from bench.page import write_section
from tests.nvml_standin.standin import build


def main() -> None:
    """Play all stories and replace what stands between the marks."""
    parser = argparse.ArgumentParser(prog="python -m bench.live_risk", description=__doc__)
    parser.add_argument("--speed", type=float, default=16.0, help="seconds of the stories within one real second")
    parser.add_argument("--poll-interval", type=float, default=30.0, help="seconds of the stories between two looks")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", type=Path, default=Path("docs/risk.md"), help="the page whose section is replaced")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vllm-headroom-live-risk-") as directory:
        outcomes = run(
            ALL,
            Path(directory),
            build(Path(directory) / "nvml"),
            speed=options.speed,
            poll_seconds=options.poll_interval,
            seed=options.seed,
        )
    section = report(outcomes, speed=options.speed, poll_seconds=options.poll_interval)
    print(section)
    write_section(options.write, section, target="live-risk")


if __name__ == "__main__":
    main()
