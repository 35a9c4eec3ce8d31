"""A short form of the fault campaign: one fault of each kind. How soon it is over is judged by the long form alone."""

import inspect
import re
from fnmatch import fnmatch

import pytest

from exporter.sources import nvml
from tests.endurance.campaign import MOST_RESIDENT_BYTES, side_by_side, try_end
from tests.endurance.ends import ENDS
from tests.endurance.faults import CALLS, FAULTS

SHORT = (
    "a GPU is lost",
    "a call hangs and holds the driver's lock",
    "`nvmlDeviceGetMemoryInfo*` fails",
    "answers a byte at a time",
    "a gzip bomb",
    "NaN everywhere",
    "set back to 1970",
    "200 at once",
    "SIGHUP while the driver hangs",
)
SHORT_ENDS = ("the driver's library crashes (SIGSEGV)", "state files cut short")
BY_NAME = {fault.name: fault for fault in FAULTS}


@pytest.fixture(scope="module")
def outcomes():
    """{name: outcome, or the AssertionError} of each fault, done to several daemons at a time."""
    faults = [BY_NAME[name] for name in SHORT]
    return {fault.name: outcome for fault, outcome in side_by_side(faults, interval_seconds=1.0, daemons=3)}


def test_no_two_faults_have_one_name():
    assert len(BY_NAME) == len(FAULTS)
    assert len({end.name for end in ENDS}) == len(ENDS)


def test_every_call_of_the_driver_that_the_program_makes_fails_in_turn():
    made = set(re.findall(r"\bnvml\.(nvml[A-Z]\w+)", inspect.getsource(nvml))) - {"nvmlMemory_v2"}
    failing = [fault.name.split("`")[1] for fault in CALLS]
    assert "nvmlDeviceGetMemoryInfo" in made
    assert {call for call in made if not any(fnmatch(_current(call), pattern) for pattern in failing)} == set()


def _current(call):
    """The name in the library of what the bindings call so."""
    return {"nvmlDeviceGetCurrentClocksThrottleReasons": "nvmlDeviceGetCurrentClocksEventReasons"}.get(call, call)


@pytest.mark.needs_cc
@pytest.mark.parametrize("name", SHORT)
def test_a_fault_is_told_shows_nothing_false_and_passes(outcomes, name):
    outcome = outcomes[name]
    assert not isinstance(outcome, AssertionError), outcome
    assert outcome.falsehoods == ()
    assert outcome.reason in BY_NAME[name].reasons or not BY_NAME[name].reasons
    assert outcome.resident_bytes < MOST_RESIDENT_BYTES


@pytest.mark.needs_cc
@pytest.mark.parametrize("name", SHORT_ENDS)
def test_an_end_is_told_at_the_next_start_and_nothing_is_lost(name):
    (end,) = (each for each in ENDS if each.name == name)
    assert try_end(end, 0.5)
