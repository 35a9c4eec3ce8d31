"""The demo's made-up host keeps its own story straight."""

import time

import pytest

from exporter.clock import Clock
from exporter.demo.story import DAY_SECONDS
from exporter.demo.world import build_demo
from exporter.sources.nvml import NvmlSource


@pytest.mark.parametrize("days", [0.0, 0.95, 2.5])
def test_every_process_on_a_gpu_is_in_the_process_table_after_the_neighbour_died_too(days):
    skipped = 0.0
    demo = build_demo(Clock(steady=lambda: time.monotonic() + skipped))
    try:
        skipped = days * DAY_SECONDS
        on_gpus = {process.pid for process in NvmlSource(demo.world.nvml).read().processes}
        assert len(on_gpus) == 2
        assert on_gpus <= set(demo.world.processes.pids())
    finally:
        demo.stop()
