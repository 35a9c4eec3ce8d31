import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.estimate import Estimate, exactly
from advisor.gpu import EngineShare, components, judge_gpu, observation
from advisor.policy import Policy
from advisor.report import COMPONENTS
from advisor.risk_state import GpuState
from advisor.units import GIB, MIB
from tests.advisor.examples import gpu

TOTAL = 80 * GIB
RESERVED = GIB // 2


def share(held, *, entitled=None, **parts):
    return EngineShare(
        engine="e", held_bytes=held, entitled=entitled or exactly(held), parts={k: v * GIB for k, v in parts.items()}
    )


def judged(used, shares=(), *, foreign=0.0, state=None, now=0.0):
    judgement, _, _ = _judged(used, shares, foreign=foreign, state=state, now=now)
    return judgement


def _judged(used, shares=(), *, foreign=0.0, state=None, now=0.0):
    return judge_gpu(
        gpu(used=int(used)),
        shares=shares,
        strangers={"900": foreign} if foreign else {},
        foreign_bytes=foreign,
        state=state or GpuState(),
        now_seconds=now,
        policy=Policy(),
    )


def lived(used, shares=(), *, seconds=1800):
    """Return the last judgement of a life in which one foreign process uses so much, told by time."""
    state = GpuState()
    for now in range(0, seconds + 1, 10):
        judgement, _, state = _judged(
            used(now), shares, foreign=used(now) - sum(each.held_bytes for each in shares), state=state, now=float(now)
        )
    return judgement


def test_lots_free_and_flat_is_no_risk():
    assert lived(lambda _: 30 * GIB).oom_risk_ratio < 0.05


def test_less_free_than_an_engine_may_still_claim_is_more_likely_than_not():
    may_take = share(70 * GIB, entitled=Estimate(lower=78 * GIB, expected=80 * GIB, upper=82 * GIB))
    assert judged(75 * GIB, [may_take]).oom_risk_ratio > 0.5


def test_an_engine_within_its_entitlement_on_a_roomy_gpu_is_no_risk():
    settled = share(72 * GIB, entitled=Estimate(lower=72 * GIB, expected=73 * GIB, upper=75 * GIB))
    assert judged(72 * GIB, [settled]).oom_risk_ratio < 0.05


def test_an_exhausted_gpu_is_certain():
    judgement = judged(TOTAL - RESERVED - 2 * MIB)
    assert judgement.oom_risk_ratio == 1.0
    assert judgement.oom_risk_factor_ratio["exhausted"] == 1.0
    assert judgement.time_to_oom_seconds == 0.0


def test_a_leak_that_ends_memory_within_the_horizon_is_likely():
    judgement = lived(lambda now: 40 * GIB + max(0, now - 600) * 10 * GIB / 550, seconds=2400)
    assert judgement.oom_risk_ratio > 0.7
    assert judgement.time_to_oom_seconds == pytest.approx((39.5 - 32.73) * 55, rel=0.05)
    assert judgement.time_to_oom_lower_seconds < judgement.time_to_oom_seconds < judgement.time_to_oom_upper_seconds


def test_a_leak_that_was_there_at_the_first_look_and_ends_memory_within_the_horizon_is_a_warning():
    judgement = lived(lambda now: 40 * GIB + now * 10 * GIB / 550)
    assert Policy().oom_risk_warning_ratio < judgement.oom_risk_ratio < 0.7  # it may be the flank of a cycle


def test_a_leak_that_leaves_hours_is_told_and_no_risk_yet():
    judgement = lived(lambda now: 70 * GIB + now * GIB / 7200, seconds=7200)
    assert judgement.oom_risk_ratio < 0.05
    assert judgement.time_to_oom_seconds == pytest.approx(8.5 * 7200, rel=0.1)


def test_the_95_percent_rule_is_not_ours():
    full_by_design = share(77 * GIB, entitled=exactly(77 * GIB))
    assert lived(lambda _: 77 * GIB, [full_by_design]).oom_risk_ratio < 0.05


def test_slack_is_negative_when_engines_may_claim_more_than_is_free():
    greedy = share(40 * GIB, entitled=exactly(72 * GIB))
    assert judged(60 * GIB, [greedy], foreign=20 * GIB).memory_slack_bytes == pytest.approx(19.5 * GIB - 32 * GIB)


def test_nothing_is_said_without_free_memory():
    judgement, said, state = judge_gpu(
        gpu(used=0).__class__(gpu="0", uuid="u"),
        shares=(),
        strangers={},
        foreign_bytes=0.0,
        state=GpuState(at_seconds=3.0),
        now_seconds=5.0,
        policy=Policy(),
    )
    assert judgement.oom_risk_ratio is None
    assert said is None
    assert state == GpuState(at_seconds=3.0)


def test_what_is_in_no_process_is_the_drivers():
    seen = observation(gpu(used=12 * GIB), shares=[share(9 * GIB)], strangers={"900": float(GIB)}, now_seconds=0.0)
    assert {holder.kind: holder.held_bytes / GIB for holder in seen.holders} == {"engine": 9, "foreign": 1, "driver": 2}


def test_an_engine_without_a_plan_that_gives_back_what_it_took_does_not_grow():
    state = GpuState()
    for now in range(0, 7200, 15):
        held = 40 * GIB + 4 * GIB * (now % 900) / 900
        judgement, _, state = _judged(held, [share(held)], state=state, now=float(now))
    assert judgement.memory_growth_bytes_per_second == 0


def test_the_lowest_slack_is_told():
    assert lived(lambda now: (70 if now == 900 else 40) * GIB).memory_slack_low_bytes == 9.5 * GIB


def test_components_show_the_plan_inside_what_the_engine_holds():
    parts = components(
        gpu(used=75 * GIB),
        [share(70 * GIB, weights=15.0, kv_used=10.0, kv_idle=40.0, cuda_graphs=1.0, activation_reserve=2.0)],
        5.0 * GIB,
    )
    assert {name: round(size / GIB, 3) for name, size in parts.items()} == {
        "weights": 15.0,
        "kv_used": 10.0,
        "kv_idle": 40.0,
        "cuda_graphs": 1.0,
        "activation_reserve": 2.0,
        "engine_other": 2.0,
        "foreign": 5.0,
        "driver_reserved": 0.5,
        "free": 4.5,
    }


def test_a_plan_larger_than_what_is_held_gives_way_from_the_uncertain_end():
    parts = components(
        gpu(used=20 * GIB),
        [share(20 * GIB, weights=15.0, kv_idle=4.5, cuda_graphs=1.0, activation_reserve=2.0)],
        0.0,
    )
    assert parts["weights"] == 15 * GIB
    assert parts["cuda_graphs"] == 0.5 * GIB
    assert parts["activation_reserve"] == 0


@given(
    used=st.integers(0, 79 * GIB),
    held=st.lists(st.floats(0, 100 * GIB), max_size=3),
    planned=st.dictionaries(st.sampled_from(COMPONENTS[:5]), st.floats(0, 90.0)),
    foreign=st.floats(0, 100 * GIB),
)
def test_components_always_add_up_to_the_total_and_none_is_negative(used, held, planned, foreign):
    parts = components(gpu(used=used), [share(each, **planned) for each in held], foreign)
    assert sum(parts.values()) == pytest.approx(TOTAL)
    assert all(size >= -1e-3 for size in parts.values())
    assert tuple(parts) == COMPONENTS


@given(free=st.integers(0, 79 * GIB), claim=st.floats(0, 40 * GIB), more=st.floats(0, 40 * GIB))
def test_risk_is_a_probability_and_never_falls_when_claims_rise(free, claim, more):
    used = TOTAL - RESERVED - free

    def risk(claimed):
        return judged(used, [share(0.0, entitled=exactly(claimed))]).oom_risk_ratio

    assert 0.0 <= risk(claim) <= risk(claim + more) + 1e-9 <= 1.0 + 2e-9
