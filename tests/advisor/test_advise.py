from dataclasses import replace

import pytest
from hypothesis import given, settings

from advisor.advise import advise
from advisor.history import History, remember
from advisor.model import parse_model
from advisor.model_files import ModelFiles
from advisor.policy import Policy
from advisor.readings import CacheConfig, EngineHostMemory, Gpu
from advisor.snapshot import EngineTarget, Snapshot
from advisor.units import GIB
from advisor.weights import TensorIndex
from tests.advisor.examples import LLAMA_8B, gpu, gpu_process, histogram, odd_flags, reading, server

URL = "http://127.0.0.1:8000"
TARGET = EngineTarget(engine="127.0.0.1:8000", url=URL, failing=None, ranks=(("m", "0"),))
MODEL = ModelFiles(
    path="/models/m",
    spec=parse_model(LLAMA_8B),
    declined=None,
    weights=TensorIndex(total_bytes=16_060_522_496, source="safetensors headers"),
)


def situation(**changes):
    """Return one engine on one 80 GiB GPU beside a small foreign process."""
    held = 72 * GIB
    snapshot = Snapshot(
        now_seconds=1_000.0,
        gpus=(gpu(used=held + GIB),),
        gpu_processes=(gpu_process(101, held), gpu_process(900, GIB)),
        servers=(server(),),
        engines=(reading(usage=0.5, tokens=None),),
        targets=(TARGET,),
        models=(MODEL,),
    )
    return replace(snapshot, **changes)


def advised(snapshot):
    return advise(snapshot, History(), Policy())


def test_an_engine_found_in_the_process_table_gets_its_theory_from_its_model_and_flags():
    (engine,) = advised(situation()).engines
    assert engine.theory == "ok"
    assert engine.kv_bytes_per_token == 131_072
    assert engine.kv_theory_lower_tokens < engine.kv_theory_tokens < engine.kv_theory_upper_tokens
    assert 400_000 < engine.kv_theory_tokens < 470_000


def test_how_many_requests_of_full_length_fit_follows_from_the_blocks_that_there_are():
    """Up to 0.23 vLLM tells its blocks and leaves the division to the reader."""
    expected = advised(situation()).engines[0].full_context_concurrency
    assert 49 < expected < 57, "of 8,192 tokens each"
    (engine,) = advised(situation(engines=(reading(tokens=6 * 8192),))).engines
    assert engine.full_context_concurrency == 6
    (engine,) = advised(situation(engines=(reading(tokens=8176),))).engines
    assert engine.full_context_concurrency < 1, "one block short of a single request"


def test_the_block_override_makes_theory_exact():
    report = advised(situation(servers=(server("vllm serve /models/m --num-gpu-blocks-override 96"),)))
    (engine,) = report.engines
    assert engine.kv_theory_lower_tokens == engine.kv_theory_tokens == engine.kv_theory_upper_tokens == 96 * 16


def test_a_server_that_overrides_its_models_config_is_planned_with_what_it_overrides():
    yarn = '{"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192}'
    stretched = server(f"vllm serve /models/m --max-model-len 16384 --rope-scaling {yarn.replace(' ', '')}")
    overrides = stretched.flags.config_overrides()
    longer = parse_model({**LLAMA_8B, "num_hidden_layers": 16})
    read = (MODEL, replace(MODEL, overrides=overrides, spec=longer))
    (engine,) = advised(situation(servers=(stretched,), models=read)).engines
    assert engine.kv_bytes_per_token == 65_536


def test_reported_capacity_wins_and_its_gap_to_theory_is_told():
    (engine,) = advised(situation(engines=(reading(usage=0.5, tokens=400_000),))).engines
    assert engine.kv_capacity_tokens == 400_000
    assert engine.kv_capacity_gap_ratio == pytest.approx(400_000 / engine.kv_theory_tokens - 1)


def test_components_and_foreign_memory_are_told_apart_by_process():
    (judgement,) = advised(situation()).gpus
    parts = judgement.memory_component_bytes
    assert parts["foreign"] == GIB
    assert parts["weights"] == pytest.approx(14.96 * GIB, rel=0.01)
    assert sum(parts.values()) == 80 * GIB


def test_what_a_sleeping_engine_still_holds_is_neither_weights_nor_cache():
    asleep = situation(
        gpus=(gpu(used=3 * GIB),),
        gpu_processes=(gpu_process(101, 2 * GIB), gpu_process(900, GIB)),
        engines=(reading(usage=0.0, tokens=None, sleeping=True),),
    )
    (judgement,) = advised(asleep).gpus
    parts = judgement.memory_component_bytes
    assert (parts["weights"], parts["kv_used"], parts["kv_idle"], parts["engine_other"]) == (0.0, 0.0, 0.0, 2 * GIB)
    (claim,) = judgement.engine_claim_bytes.values()
    assert claim > 65 * GIB, "it may wake at any moment"


def test_an_unmapped_engine_is_foreign_memory_and_says_why_it_has_no_theory():
    report = advised(situation(servers=(), visible_pids=frozenset({101, 900})))
    assert report.gpus[0].memory_component_bytes["foreign"] == 73 * GIB
    assert report.engines[0].theory == "the server runs on another host or cannot be found in the process table"
    assert report.engines[0].up == 1


def test_while_the_process_table_is_unread_nobody_can_tell_an_engine_from_a_stranger():
    read = situation()
    before = advise(read, History(), Policy())
    unread = advise(
        replace(read, servers=(), visible_pids=None, now_seconds=read.now_seconds + 5),
        replace(History(), gpus=before.gpu_states),
        Policy(),
    )
    (judgement,) = unread.gpus
    assert judgement.memory_component_bytes is None
    assert judgement.memory_slack_bytes is None
    assert judgement.oom_risk_ratio is None
    assert unread.gpu_states == before.gpu_states, "what is remembered of its holders stays for the next reading"


def test_why_there_is_no_theory_names_no_path():
    unread = ModelFiles(path="/models/m", spec=None, declined="no_config: /models/m/config.json: missing", weights=None)
    (engine,) = advised(situation(models=(unread,))).engines
    assert engine.theory == "no_config: the model/config.json: missing"


def test_a_declined_model_names_the_reason():
    declined = ModelFiles(path="/models/m", spec=None, declined="architecture Foo is not described", weights=None)
    (engine,) = advised(situation(models=(declined,))).engines
    assert engine.theory == "architecture Foo is not described"
    assert engine.kv_theory_tokens is None


def test_what_nobody_else_holds_is_the_engines_where_the_driver_does_not_split_memory():
    """WSL and virtual GPUs name no figure of a process."""
    alone = situation(gpu_processes=(gpu_process(100, None), gpu_process(101, None)))
    (judged,), (engine,) = advised(alone).gpus, advised(alone).engines
    assert judged.engine_held_bytes == {"127.0.0.1:8000": 73 * GIB}
    assert engine.restart_fits == 1
    beside = situation(gpu_processes=(gpu_process(101, None), gpu_process(900, GIB)))
    assert advised(beside).gpus[0].engine_held_bytes == {"127.0.0.1:8000": 72 * GIB}
    assert advised(beside).gpus[0].memory_slack_bytes == advised(situation()).gpus[0].memory_slack_bytes


def test_where_nobodys_memory_is_told_claims_are_not_made_up():
    untold = situation(gpu_processes=(gpu_process(101, None), gpu_process(900, None)))
    report = advised(untold)
    (judged,), (engine,) = report.gpus, report.engines
    assert judged.oom_risk_ratio < 0.05, "73 of 80 GiB are used, by whom is not known"
    assert "claims" not in judged.oom_risk_factor_ratio
    assert judged.engine_held_bytes == judged.engine_claim_bytes == {}
    assert judged.memory_slack_bytes is judged.memory_slack_low_bytes is None
    assert list(judged.engine_budget_bytes) == ["127.0.0.1:8000"], "its flags are known all the same"
    assert judged.memory_component_bytes is None, "least of all the driver's"
    assert engine.restart_fits is None
    assert not report.findings


def test_what_no_engine_holds_is_foreign_where_the_driver_does_not_split_memory():
    beside = situation(gpu_processes=(gpu_process(101, 70 * GIB), gpu_process(900, None), gpu_process(901, GIB)))
    assert advised(beside).gpus[0].memory_component_bytes["foreign"] == 3 * GIB
    alone = situation(gpu_processes=(gpu_process(900, None),))
    assert advised(alone).gpus[0].memory_component_bytes["foreign"] == 73 * GIB


def test_an_engine_that_is_loading_may_claim_its_whole_budget():
    loading = situation(
        servers=(server("vllm serve /models/m --gpu-memory-utilization 0.9"),),
        gpus=(gpu(used=10 * GIB),),
        gpu_processes=(gpu_process(101, 10 * GIB),),
        engines=(),
        targets=(replace(TARGET, failing="connection_refused"),),
    )
    assert advised(loading).gpus[0].memory_slack_bytes == pytest.approx(69.5 * GIB - (0.9 * 79.5 - 10) * GIB)


def test_the_ledger_of_a_gpu_that_two_engines_share():
    first = server("vllm serve /models/m --port 8000 --gpu-memory-utilization 0.5", port=8000, pids=(101,))
    second = server("vllm serve /models/m --port 8001 --gpu-memory-utilization 0.55", port=8001, pids=(201,))
    shared = situation(
        gpus=(gpu(used=62 * GIB),),
        gpu_processes=(gpu_process(101, 38 * GIB), gpu_process(201, 20 * GIB), gpu_process(900, 4 * GIB)),
        servers=(first, second),
        targets=(TARGET, EngineTarget(engine="second", url="http://127.0.0.1:8001", failing="connection_refused")),
    )
    (judged,) = advised(shared).gpus
    # 79.5 GiB are what CUDA sees; the second one is still loading and may take all of its budget.
    assert {name: size / GIB for name, size in judged.engine_budget_bytes.items()} == pytest.approx(
        {"127.0.0.1:8000": 39.75, "second": 43.725}
    )
    assert judged.engine_held_bytes == {"127.0.0.1:8000": 38 * GIB, "second": 20 * GIB}
    assert judged.engine_claim_bytes["second"] == pytest.approx(23.725 * GIB)
    assert judged.engine_claim_bytes["127.0.0.1:8000"] > 1.75 * GIB, "its budget and its CUDA context"
    assert judged.memory_slack_bytes == pytest.approx(17.5 * GIB - sum(judged.engine_claim_bytes.values()))
    assert judged.memory_slack_bytes < 0, "0.5 and 0.55 do not fit beside 4 GiB of others"


def test_without_flags_or_a_release_no_budget_is_made_up():
    loading = situation(servers=(server("vllm serve /models/m"),), engines=())
    (judged,) = advised(loading).gpus
    assert judged.engine_budget_bytes == {}
    assert judged.engine_claim_bytes == {"127.0.0.1:8000": 0.0}


def test_a_server_that_does_not_answer_is_down_under_the_names_it_had():
    report = advised(situation(engines=(), targets=(replace(TARGET, failing="timeout"),)))
    (engine,) = report.engines
    assert (engine.engine, engine.model_name, engine.dp_rank, engine.up) == ("127.0.0.1:8000", "m", "0", 0)
    assert engine.failing == {"timeout": 1}
    assert engine.kv_capacity_tokens is None


def test_max_num_seqs_comes_from_the_command_line_or_the_release():
    (given,) = advised(situation(servers=(server("vllm serve /models/m --max-num-seqs 32"),))).engines
    assert (given.max_num_seqs, given.max_num_seqs_origin) == (32, "given")
    (default,) = advised(situation()).engines
    assert (default.max_num_seqs, default.max_num_seqs_origin) == (1024, "default")


def test_each_data_parallel_engine_stands_on_its_own_gpu():
    ranks = tuple(replace(reading(usage=usage, tokens=100_000), dp_rank=str(n)) for n, usage in enumerate((0.1, 0.9)))
    report = advised(
        situation(
            gpus=(gpu(used=72 * GIB), gpu(used=72 * GIB, index=1)),
            gpu_processes=(gpu_process(101, 72 * GIB), gpu_process(102, 72 * GIB, index=1)),
            servers=(server(pids=(100, 101, 102)),),
            engines=ranks,
        )
    )
    used = [judgement.memory_component_bytes["kv_used"] for judgement in report.gpus]
    assert used[1] == pytest.approx(9 * used[0])


def test_a_request_that_can_never_fit_is_a_finding():
    small = reading(usage=0.0, tokens=None)
    small = replace(small, cache=CacheConfig(kv_cache_size_tokens=4_000))
    finding, below = advised(situation(engines=(small,))).findings
    assert (finding.rule, below.rule) == ("request_never_fits", "capacity_below_theory")
    assert "8,192" in finding.summary
    assert finding.advice.startswith("--max-model-len 4000")


def test_an_error_of_a_board_is_a_risk_of_every_instance_on_it():
    board = Gpu(gpu="1", uuid="GPU-1", mig="parent", xid_errors_total={79: 1}, row_remap_failed=1)
    other = gpu(index=0)
    instances = [replace(gpu(total=10 * GIB), gpu=f"1:{place}", uuid=f"MIG-{place}", mig="1g.10gb") for place in (0, 1)]
    report = advised(Snapshot(now_seconds=1_000.0, gpus=(other, board, *instances)))
    events = {each.gpu: (each.oom_risk_factor_ratio or {}).get("events") for each in report.gpus}
    assert events == {"0": 0.0, "1": None, "1:0": pytest.approx(0.55), "1:1": pytest.approx(0.55)}
    assert [each.subject for each in report.findings if each.rule == "gpu_oom_risk"] == ["GPU 1:0", "GPU 1:1"]


def test_a_gpu_at_risk_is_a_finding_with_its_reason():
    crowded = situation(gpus=(gpu(used=int(79.49 * GIB)),), gpu_processes=(gpu_process(900, int(79.49 * GIB)),))
    finding = next(each for each in advised(crowded).findings if each.rule == "gpu_oom_risk")
    assert finding.severity == "critical"
    assert finding.subject == "GPU 0"
    assert "are free" in finding.summary


def test_a_neighbour_that_leaks_is_found_and_blamed_before_memory_ends():
    history, report = History(), None
    for now in range(0, 1800, 15):
        foreign = GIB + int(now * 5.8 * GIB / 1800)
        snapshot = situation(
            now_seconds=float(now),
            gpus=(gpu(used=72 * GIB + foreign),),
            gpu_processes=(gpu_process(101, 72 * GIB), gpu_process(900, foreign)),
        )
        report = advise(snapshot, history, Policy())
        history = remember(history, snapshot, report)
    (finding,) = (each for each in report.findings if each.rule == "gpu_oom_risk")
    assert "11.6 GiB an hour" in report.factor_sentences["GPU-0", "trend"]
    assert "a process that is no vLLM engine" in finding.summary
    assert "900" not in finding.summary, "no PID is shown"
    assert report.gpus[0].time_to_oom_seconds < 900


def test_an_engine_that_leaks_is_found_and_blamed_by_name():
    history, report = History(), None
    for now in range(0, 1800, 15):
        held = 72 * GIB + int(now * 6.3 * GIB / 1800)
        snapshot = situation(
            now_seconds=float(now),
            gpus=(gpu(used=held + GIB),),
            gpu_processes=(gpu_process(101, held), gpu_process(900, GIB)),
            servers=(server("vllm serve /models/m --gpu-memory-utilization 0.88"),),
        )
        report = advise(snapshot, history, Policy())
        history = remember(history, snapshot, report)
    (finding,) = (each for each in report.findings if each.rule == "gpu_oom_risk")
    assert report.culprits["GPU-0"].spelled == "engine 127.0.0.1:8000"
    assert "engine 127.0.0.1:8000" in finding.summary


def test_an_empty_host_is_a_normal_state():
    report = advised(Snapshot(now_seconds=0.0))
    assert (report.gpus, report.engines, report.findings) == ((), (), ())


def test_lengths_seen_make_the_headroom_in_requests():
    lengths = {"prompt_tokens": histogram(900), "generation_tokens": histogram(100)}
    (engine,) = advised(situation(engines=(reading(usage=0.5, tokens=100_000, histograms=lengths),))).engines
    assert engine.kv_request_headroom == 50


def near_its_host_limit(used, *, kills=0):
    told = EngineHostMemory(host="127.0.0.1", port=8000, limit_bytes=64 * GIB, used_bytes=used, oom_kills=kills)
    return advised(situation(host_memory=(told,)))


def test_an_engines_cgroup_near_its_limit_is_an_event_of_its_gpu_and_a_finding():
    report = near_its_host_limit(int(0.97 * 64 * GIB), kills=2)
    (judged,), (engine,) = report.gpus, report.engines
    assert judged.oom_risk_factor_ratio["events"] == pytest.approx(0.7**2, abs=1e-6)
    assert "97% of the host memory" in report.factor_sentences[judged.uuid, "events"]
    assert (engine.host_memory_limit_bytes, engine.host_oom_kills_total) == (64 * GIB, 2)
    finding = next(each for each in report.findings if each.rule == "host_memory_ends")
    assert finding.subject == engine.engine
    assert "62.08 GiB of the 64.00 GiB" in finding.summary
    assert "as it did 2 times there" in finding.summary


def test_a_cgroup_with_room_is_neither():
    report = near_its_host_limit(32 * GIB)
    assert report.gpus[0].oom_risk_factor_ratio["events"] == 0.0
    assert "host_memory_ends" not in {each.rule for each in report.findings}


def test_without_a_limit_nothing_is_said_of_host_memory():
    (engine,) = advised(situation()).engines
    assert engine.host_memory_limit_bytes is None
    assert engine.host_memory_used_bytes is None
    assert engine.host_oom_kills_total is None


@pytest.mark.parametrize("share", ["1e300", "-1", "0", "1.5"])
def test_a_server_with_a_share_that_is_none_takes_nothing_from_the_others(share):
    odd = situation(servers=(server(f"vllm serve /models/m --gpu-memory-utilization {share}"),))
    report = advised(odd)
    assert [gpu.oom_risk_ratio is not None for gpu in report.gpus] == [True]
    assert report.gpus[0].engine_budget_bytes == {}


@settings(max_examples=150, derandomize=True, database=None, deadline=None)
@given(odd_flags())
def test_whatever_a_servers_command_line_asks_for_the_others_are_judged(flags):
    assert advised(situation(servers=(replace(server(), flags=flags),))).engines[0].up == 1
