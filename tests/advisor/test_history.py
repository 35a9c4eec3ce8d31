import pytest

from advisor.history import EngineHistory, GpuHistory, History, remember
from advisor.report import Engine, GpuJudgement, Report
from advisor.snapshot import Snapshot
from advisor.units import GIB, MIB
from tests.advisor.examples import gpu, gpu_process, reading


def moment(history, now, held, pid=1):
    """Fold in a moment at which one process holds so many bytes and no engine may claim any."""
    snapshot = Snapshot(now_seconds=now, gpus=(gpu(used=held),), gpu_processes=(gpu_process(pid, held),))
    slack = snapshot.gpus[0].memory_free_bytes
    return remember(history, snapshot, Report(gpus=(GpuJudgement(gpu="0", uuid="GPU-0", memory_slack_bytes=slack),)))


def grown(use, *, seconds=1800, every=5):
    """Return the history of a GPU whose use in bytes is a function of time."""
    history = History()
    for now in range(0, seconds, every):
        history = moment(history, now, int(use(now)))
    return history.gpus["GPU-0"]


def test_two_minutes_must_be_seen_before_a_trend_is_told():
    assert grown(lambda _: GIB, seconds=100).growth_bytes_per_second is None
    assert grown(lambda _: GIB, seconds=130).growth_bytes_per_second == 0


def test_a_flat_line_does_not_grow():
    assert grown(lambda _: 40 * GIB).growth_bytes_per_second == 0


def test_a_steady_leak_is_measured():
    rate = GIB / 3600
    assert grown(lambda now: 40 * GIB + rate * now).growth_bytes_per_second == pytest.approx(rate, rel=0.02)


def test_a_single_step_is_no_growth():
    assert grown(lambda now: 40 * GIB + (4 * GIB if now > 900 else 0)).growth_bytes_per_second == pytest.approx(
        0, abs=1024
    )


def test_a_leak_is_measured_through_a_step():
    rate = GIB / 3600
    leaking = grown(lambda now: 40 * GIB + rate * now + (4 * GIB if now > 900 else 0))
    assert leaking.growth_bytes_per_second == pytest.approx(rate, rel=0.15)


def test_a_fast_leak_shows_within_two_minutes_of_a_calm_hour():
    rate = 50 * MIB
    sudden = grown(lambda now: 10 * GIB + max(0, now - 1500) * rate, seconds=1630)
    assert sudden.growth_bytes_per_second == pytest.approx(rate, rel=0.1)


def test_a_process_that_ended_takes_its_past_with_it():
    history = History()
    for now in range(0, 600, 10):
        history = moment(history, now, 10 * GIB + now * MIB)
    assert history.gpus["GPU-0"].growth_bytes_per_second > 0
    history = moment(history, 600, GIB, pid=2)
    assert history.gpus["GPU-0"].growth_bytes_per_second is None


def test_what_is_remembered_is_bounded():
    assert len(grown(lambda _: GIB, seconds=50_000, every=10).points) <= 180


def test_a_gpu_that_is_not_readable_keeps_its_past():
    history = History(gpus={"GPU-0": GpuHistory(points=((0.0, 1.0),))})
    assert remember(history, Snapshot(now_seconds=5), Report()).gpus == history.gpus


def engine_history(*moments):
    history = History()
    for now, running, totals in moments:
        history = remember(
            history, Snapshot(now_seconds=now, engines=(reading(running=running, totals=totals),)), Report()
        )
    return history.engines["127.0.0.1:8000", "0"]


def test_the_last_token_is_remembered_while_the_counter_stands_still():
    history = engine_history(
        (0, 2.0, {"generation_tokens_total": 10}),
        (5, 2.0, {"generation_tokens_total": 20}),
        (10, 2.0, {"generation_tokens_total": 20}),
        (15, 2.0, {"generation_tokens_total": 20}),
    )
    assert history.token_seen_at_seconds == 5


def test_an_idle_engine_counts_as_alive():
    history = engine_history((0, 2.0, {"generation_tokens_total": 10}), (60, 0.0, {"generation_tokens_total": 10}))
    assert history.token_seen_at_seconds == 60


def test_a_first_look_never_reads_as_stalled():
    assert engine_history((100, 5.0, {"generation_tokens_total": 10})).token_seen_at_seconds == 100


def test_reaching_max_num_seqs_is_dated():
    engine = Engine(engine="127.0.0.1:8000", model_name="m", dp_rank="0", max_num_seqs=16)
    history = History()
    for now, running in ((0, 3.0), (5, 16.0), (10, 15.0)):
        snapshot = Snapshot(now_seconds=now, engines=(reading(running=running),))
        history = remember(history, snapshot, Report(engines=(engine,)))
    assert history.engines["127.0.0.1:8000", "0"].seqs_reached_at_seconds == 5


def test_a_preemption_is_dated():
    history = engine_history((0, 2.0, {"preemptions_total": 0}), (5, 2.0, {"preemptions_total": 1}))
    assert history.preempted_at_seconds == 5


def test_a_restart_of_the_engine_starts_afresh():
    history = engine_history(
        (0, 30.0, {"generation_tokens_total": 500, "preemptions_total": 3}),
        (5, 30.0, {"generation_tokens_total": 600, "preemptions_total": 4}),
        (10, 1.0, {"generation_tokens_total": 2, "preemptions_total": 0}),
    )
    assert history == EngineHistory(
        totals={"generation_tokens_total": 2, "preemptions_total": 0}, token_seen_at_seconds=10
    )
