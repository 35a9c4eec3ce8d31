"""Which scraped server is one that a daemon watches. Whole fleets in real stores: tests/end_to_end/test_past.py."""

import pytest

from exporter.fleet import _twin, _Values
from exporter.past import Target
from tests.advisor.test_fleet import engine

KEY = ("m", "0")


def target(kind, instance, **labels):
    return Target(kind=kind, labels={"instance": instance, **labels}, without=frozenset(), engines=frozenset({KEY}))


def is_twin(scraped, daemon, *, finished=None, daemons_finished=None):
    watched = target("headroom", daemon, engine="127.0.0.1:8000")
    counts = _Values({} if daemons_finished is None else {(watched.matchers, KEY, ""): daemons_finished})
    ours = [(watched, engine(engine="127.0.0.1:8000"))]
    return _twin(target("vllm", scraped), KEY, finished, ours, set(), counts) is not None


def test_a_server_on_the_daemons_host_is_its_own():
    assert is_twin("10.0.0.1:8000", "10.0.0.1:9738")


@pytest.mark.parametrize(
    ("finished", "daemons_finished", "alike"),
    [(1_000.0, 1_020.0, True), (1_000.0, 979.0, False), (99.0, 99.0, False), (None, 1_000.0, False)],
)
def test_elsewhere_two_are_one_that_have_served_as_many_to_a_fiftieth(finished, daemons_finished, alike):
    """Below a hundred requests a number says too little."""
    assert is_twin("10.1.0.7:8000", "10.2.0.7:9738", finished=finished, daemons_finished=daemons_finished) is alike
