"""The moment as data, of a service whose clock a test moves."""

import pynvml
import pytest

from exporter.clock import Clock
from exporter.config import Config
from exporter.service import Service, World
from exporter.web.page import render_page
from exporter.web.status import recents, status
from tests.exporter.test_service import NO_PROCESSES
from tests.nvml_standin.standin import GIB, Process


class HaltingClock:
    """Stands still until it is told that each look at it takes so many seconds."""

    def __init__(self):
        self.now, self.step = 1_000.0, 0.0

    def __call__(self):
        self.now += self.step
        return self.now


@pytest.mark.needs_cc
def test_a_judgement_that_grows_too_old_while_a_page_is_made_leaves_a_whole_page(nvml):
    card = nvml.add_gpu()
    card.set_memory(total=80 * GIB, used=79 * GIB)
    card.set_processes(Process(pid=4_000_001, memory=79 * GIB))
    clock = HaltingClock()
    world = World(nvml=pynvml, processes=NO_PROCESSES, clock=Clock(steady=clock))
    service = Service(Config(), world)
    published = service.once()
    assert published.report.factor_sentences, "something is said of the GPU beside its figures"
    clock.step = 7.0  # a judgement holds for 12.5 s
    shown = status(service)
    assert [gpu["uuid"] for gpu in shown["gpus"]] == [card.uuid]
    assert ">GPU 0<" in render_page(shown, recents(service))
