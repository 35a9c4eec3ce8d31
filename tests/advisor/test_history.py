from advisor.history import EngineHistory, History, remember
from advisor.report import Engine, Report
from advisor.risk_state import GpuState
from advisor.snapshot import Snapshot
from tests.advisor.examples import reading


def test_what_the_risk_model_remembers_of_a_gpu_is_kept_while_the_gpu_is_away():
    history = History(gpus={"GPU-0": GpuState(at_seconds=3.0), "GPU-1": GpuState()})
    seen = Report(gpu_states={"GPU-1": GpuState(at_seconds=5.0)})
    assert remember(history, Snapshot(now_seconds=5), seen).gpus == {
        "GPU-0": GpuState(at_seconds=3.0),
        "GPU-1": GpuState(at_seconds=5.0),
    }


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


def test_an_engine_that_reads_a_long_prompt_is_alive():
    history = engine_history(
        (0, 2.0, {"generation_tokens_total": 10, "prompt_tokens_total": 100}),
        (60, 2.0, {"generation_tokens_total": 10, "prompt_tokens_total": 8_000}),
    )
    assert history.token_seen_at_seconds == 60


def test_an_engine_that_reads_a_prompt_for_minutes_is_alive_while_the_prompt_takes_blocks():
    """A prompt of a million tokens is counted with its first answer, not chunk by chunk."""
    totals = {"generation_tokens_total": 10.0, "prompt_tokens_total": 100.0}
    history = History()
    for now, usage in ((0, 0.10), (60, 0.12), (120, 0.14), (180, 0.14), (240, 0.14)):
        engine = reading(running=1.0, usage=usage, totals=totals)
        history = remember(history, Snapshot(now_seconds=now, engines=(engine,)), Report())
    assert history.engines["127.0.0.1:8000", "0"].token_seen_at_seconds == 120


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
        totals={"generation_tokens_total": 2, "preemptions_total": 0}, token_seen_at_seconds=10, kv_usage_ratio=0.0
    )
