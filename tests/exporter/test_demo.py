import pytest

from exporter.clock import Clock
from exporter.demo.story import DAY_SECONDS
from exporter.demo.world import build_demo
from exporter.sources.nvml import NvmlSource


@pytest.fixture
def story():
    """The demo's world, and what moves its time."""
    now = [1000.0]
    demo = build_demo(Clock(steady=lambda: now[0]))
    yield demo.world, now
    demo.stop()


def test_every_process_on_a_gpu_is_in_the_process_table_on_the_first_day_and_after_it_died(story):
    world, now = story
    seen = set()
    for hour in (0.0, 0.9 * DAY_SECONDS, 0.95 * DAY_SECONDS, 1.5 * DAY_SECONDS, 2.1 * DAY_SECONDS):
        now[0] = 1000.0 + hour
        found = {process.pid for process in NvmlSource(world.nvml).read().processes}
        assert found <= set(world.processes.pids())
        seen |= found
    # The engine's worker, and three neighbours: it has died at the end of the first day and of the second.
    assert len(seen) == 1 + 3
