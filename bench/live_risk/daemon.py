"""``python -m bench.live_risk.daemon``: ``vllm-headroom serve`` with a clock that runs faster, else unchanged."""

import argparse

import psutil
import pynvml

from exporter import logs
from exporter.cli.serve import Serving, hold_signals, run
from exporter.clock import sped_up
from exporter.config import load
from exporter.service import World


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(prog="python -m bench.live_risk.daemon", description=__doc__)
    parser.add_argument("--speed", type=float, required=True, help="seconds of the story within one real second")
    parser.add_argument("--poll-interval", type=float, required=True, help="seconds of the story")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--engine", action="append", default=[], help="a vLLM server to watch")
    options = parser.parse_args()
    hold_signals()
    logs.configure("info", "logfmt")
    config = load(
        None,
        {
            "poll_interval": options.poll_interval,
            "listen_address": f"127.0.0.1:{options.port}",
            "engines": [{"url": url} for url in options.engine],
        },
    )
    run(config, World(nvml=pynvml, processes=psutil, clock=sped_up(options.speed)), Serving())


if __name__ == "__main__":
    main()
