"""An hour of seven GPUs in two minutes: the whole daemon, a real Prometheus, the alerts as they ship."""

import pytest

from bench.live_risk.rules import OURS, RESTART
from bench.live_risk.run import run
from bench.live_risk.story import SHORT

pytestmark = [pytest.mark.needs_cc, pytest.mark.needs_prometheus]

LEAST_LEAD_SECONDS = 300.0
CALM = ("sawtooth", "full_and_steady")
ENDS = tuple(name for name in SHORT if name not in (*CALM, "restart_fails"))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory, nvml_library):
    # A look every second and a half: on a busy machine the daemon must keep up with a clock that does not wait.
    played = run(SHORT, tmp_path_factory.mktemp("live"), nvml_library, speed=30.0, poll_seconds=45.0, seed=1)
    return {each.name: each for each in played}


@pytest.mark.parametrize(
    "name", [name for name in SHORT if name not in ("restart_fails", "sawtooth", "full_and_steady")]
)
def test_the_alert_fires_minutes_before_memory_ends(outcomes, name):
    outcome = outcomes[name]
    assert outcome.ended_at_seconds is not None
    assert (outcome.lead_seconds(OURS) or 0.0) >= LEAST_LEAD_SECONDS


def test_the_alert_names_what_takes_the_memory(outcomes):
    assert outcomes["foreign_arrival"].factor == "foreign"
    assert outcomes["late_peak"].factor == "claims"
    assert outcomes["over_committed"].factor == "claims"


def test_a_restart_that_would_fail_is_told_before_it_is_tried(outcomes):
    outcome = outcomes["restart_fails"]
    assert outcome.ended_at_seconds is not None
    assert (outcome.lead_seconds(RESTART) or 0.0) >= LEAST_LEAD_SECONDS


@pytest.mark.parametrize("name", CALM)
def test_a_calm_gpu_alerts_nobody_where_the_rule_of_today_always_fires(outcomes, name):
    outcome = outcomes[name]
    assert outcome.ended_at_seconds is None
    assert (outcome.fired[OURS], outcome.fired[RESTART]) == ((), ())
    assert outcome.fired["used > 95%"]
