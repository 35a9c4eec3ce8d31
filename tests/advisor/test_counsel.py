"""Load, theory and GPUs of one engine together, through the one judgement."""

import re
from dataclasses import replace

import pytest

from advisor.advise import advise
from advisor.history import History, remember
from advisor.layers import Mamba2
from advisor.policy import Policy
from advisor.readings import CacheConfig
from advisor.snapshot import Snapshot
from advisor.units import GIB
from tests.advisor.examples import gpu, gpu_process, reading, server
from tests.advisor.loads import told
from tests.advisor.test_advise import MODEL, TARGET, situation

KEY = ("127.0.0.1:8000", "0")
TOKENS = 400_000


def judged(snapshot=None, load=None, policy=None):
    """Return the report on an engine of 400,000 tokens whose requests hold 20,000 each."""
    engine = reading(running=16.0, waiting=40.0, usage=0.8, tokens=TOKENS)
    snapshot = snapshot or situation(engines=(engine,), servers=(server("vllm serve /models/m --max-num-seqs 64"),))
    load = load or told(mean=20_000.0, prompt=4_000.0, output=1_200.0)
    return advise(snapshot, History(load={KEY: load}), policy or Policy())


def test_gauges_advice_and_recommendations_are_one_report():
    report = judged()
    (engine,), (advice,) = report.engines, report.advice
    assert engine.recommended_max_num_seqs == advice.seqs.recommended == 16
    assert engine.recommended_max_num_seqs_lower == advice.seqs.lower
    assert engine.recommended_max_num_seqs_upper == advice.seqs.upper
    assert engine.advice_confidence_ratio == advice.seqs.confidence_ratio
    rows = {row.flag: row for row in advice.recommendations()}
    seqs = rows["max-num-seqs"]
    assert (seqs.current, seqs.recommended, seqs.binding) == ("64", "16", "kv")
    assert seqs.kv_gain_tokens > 0  # less sampler memory
    assert {"gpu-memory-utilization", "max-model-len", "max-num-batched-tokens", "kv-cache-dtype"} <= set(rows)


def test_without_load_nothing_is_recommended_and_the_reason_is_told():
    report = advise(situation(), History(), Policy())
    assert report.engines[0].recommended_max_num_seqs is None
    assert report.advice[0].not_yet == "no load has been seen yet"
    assert report.advice[0].preemption_because is None
    assert report.advice[0].recommendations() == ()


def test_a_server_whose_flags_are_out_of_reach_gets_no_number_but_an_outlook():
    remote = situation(engines=(reading(running=16.0, usage=0.8, tokens=TOKENS),), servers=())
    report = judged(remote)
    assert "its flags are not known" in report.advice[0].not_yet
    assert report.engines[0].preemption_risk_ratio is not None
    assert report.advice[0].preemption_because.startswith("16 requests run; each holds 20,000 tokens on average")
    assert report.engines[0].restart_fits is None


def test_a_running_server_that_would_not_start_again_is_a_finding():
    held = 60 * GIB
    taken = situation(
        gpus=(gpu(used=held + 12 * GIB),), gpu_processes=(gpu_process(101, held), gpu_process(900, 12 * GIB))
    )
    report = advise(taken, History(), Policy())
    (engine,) = report.engines
    assert engine.restart_fits == 0
    assert engine.restart_shortfall_bytes == pytest.approx(0.92 * 79.5 * GIB - 67.5 * GIB + 480 * 1024**2, rel=1e-6)
    (finding,) = [each for each in report.findings if each.rule == "restart_would_fail"]
    assert "6.11 GiB are missing" in finding.summary
    assert advise(situation(), History(), Policy()).engines[0].restart_fits == 1


def test_a_limit_far_off_is_a_finding_with_what_it_buys():
    (finding,) = [each for each in judged().findings if each.rule == "max_num_seqs_far_off"]
    assert finding.summary.startswith("max-num-seqs is 64 and should be 16 (between")
    assert "no stalls in mid-stream" in finding.advice
    close = judged(policy=Policy(far_off_ratio=10))
    assert [each.rule for each in close.findings if each.rule == "max_num_seqs_far_off"] == []


def test_a_cache_that_fills_up_and_will_preempt_is_a_finding():
    findings = {each.rule: each for each in judged().findings}
    assert re.search(r"with a probability of (>99|100)%$", findings["kv_exhaustion_ahead"].summary)
    calm = situation(
        engines=(reading(running=3.0, usage=0.15, tokens=TOKENS),),
        servers=(server("vllm serve /models/m --max-num-seqs 64"),),
    )
    load = told(mean=20_000.0, running=3.0, demand=5, preempted=0.0)
    assert "kv_exhaustion_ahead" not in {each.rule for each in judged(calm, load).findings}


def test_a_queue_that_grows_without_bound_is_a_finding_unless_the_server_bounds_it():
    load = told(mean=20_000.0)
    growing = replace(load, fast=replace(load.fast, arrived=2 * load.fast.finished))
    engine = reading(running=16.0, waiting=5_000.0, usage=0.8, tokens=TOKENS)

    def rules(command):
        report = judged(situation(engines=(engine,), servers=(server(command),)), growing)
        return {each.rule for each in report.findings}

    assert "queue_without_bound" in rules("vllm serve /models/m --max-num-seqs 64")
    assert "queue_without_bound" not in rules("vllm serve /models/m --max-num-seqs 64 --max-num-queued-reqs 100")


def test_an_engine_without_a_token_for_a_minute_is_a_critical_finding():
    stuck = situation(engines=(reading(running=1.0, waiting=3.0, usage=0.9, totals={"generation_tokens_total": 5.0}),))
    history = History()
    for seconds in (1_000.0, 1_061.0):
        snapshot = replace(stuck, now_seconds=seconds)
        report = advise(snapshot, history, Policy())
        history = remember(history, snapshot, report)
    assert [each.rule for each in report.findings if each.severity == "critical"] == ["stalled_engine"]


def test_what_was_advised_is_remembered_and_what_is_absent_is_interrupted():
    engine = reading(running=16.0, waiting=40.0, usage=0.8, tokens=TOKENS)
    here = situation(engines=(engine,), servers=(server("vllm serve /models/m --max-num-seqs 64"),))
    history = History(load={KEY: told(mean=20_000.0, prompt=4_000.0, output=1_200.0)})
    history = remember(history, here, advise(here, history, Policy()))
    assert history.load[KEY].advised == 16
    assert history.load[KEY].last is not None
    gone = Snapshot(now_seconds=2_000.0, targets=(TARGET,), models=(MODEL,))
    history = remember(history, gone, advise(gone, history, Policy()))
    assert history.load[KEY].last is None
    assert history.load[KEY].slow.finished == 4_000


def test_a_hybrid_models_state_blocks_bound_the_number():
    state = Mamba2(intermediate_size=8192, n_groups=8, num_heads=128, head_dim=64, state_size=128, conv_kernel=4)
    attention = MODEL.spec.layers
    layers = tuple((state,) if position % 8 else each for position, each in enumerate(attention))
    hybrid = replace(MODEL, spec=replace(MODEL.spec, layers=layers))
    cache = CacheConfig(kv_cache_size_tokens=TOKENS, num_gpu_blocks=880)
    engine = replace(reading(running=4.0, waiting=90.0, usage=0.02), cache=cache)
    load = told(mean=2_000.0, running=4.0, preempted=0.0, limited=0.9, current=4)

    def seqs(model):
        servers = (server("vllm serve /models/m --max-num-seqs 4"),)
        return judged(situation(engines=(engine,), servers=servers, models=(model,)), load).advice[0].seqs

    # One block of attention and three of each of seven groups of states, so 22 blocks are the least of a request.
    assert (seqs(hybrid).recommended, seqs(hybrid).binding) == (880 // 22, "state_blocks")
    assert seqs(MODEL).binding == "kv"
    assert seqs(MODEL).recommended > 150
