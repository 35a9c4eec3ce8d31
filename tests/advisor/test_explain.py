"""What people ask of a vLLM process, answered: expected figures are derived beside each."""

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.estimate import Origin, exactly
from advisor.explain import explain, figures_of, utilization_choices
from advisor.model import parse_model
from advisor.model_files import ModelFiles
from advisor.readings import CacheConfig, EngineStartLog
from advisor.report import COMPONENTS
from advisor.snapshot import EngineTarget, Snapshot
from advisor.start_log import RankMemory, StartError, StartLog
from advisor.units import GIB, MIB
from tests.advisor.examples import LLAMA_8B, gpu, gpu_process, reading, server

URL = "http://127.0.0.1:8000"
BAICHUAN_7B = {
    **LLAMA_8B,
    "intermediate_size": 11008,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "vocab_size": 64000,
    "torch_dtype": "float16",
}


def rank(**sizes_gib):
    named = {f"{name}_bytes": round(size * GIB) for name, size in sizes_gib.items()}
    return RankMemory(process="", pid=None, rank=0, **named)


def found(log, *, host="127.0.0.1", port=8000):
    return EngineStartLog(host=host, port=port, log=log, found="a file")


def snapshot(
    *,
    used=60 * GIB,
    command="vllm serve /models/m",
    config=LLAMA_8B,
    engine=None,
    log=None,
    total=80 * GIB,
    processes=None,
    **more,
):
    """One GPU with one server's worker (pid 101), and what else is given."""
    engine = engine or reading()
    return Snapshot(
        now_seconds=100.0,
        gpus=(gpu(used=int(used), total=total),),
        gpu_processes=processes or (gpu_process(101, int(used)),),
        servers=(server(command),),
        engines=(engine,),
        targets=(EngineTarget(engine="127.0.0.1:8000", url=URL, failing=None),),
        models=(
            ModelFiles(
                path="/models/m", spec=parse_model(config) if config else None, declined="no rules", weights=None
            ),
        ),
        start_logs=(found(log),) if log else (),
        **more,
    )


def parts_of(explained, position=0):
    return {part.name: part for part in explained.gpus[position].parts}


def said(explained):
    return " ".join(explained.engines[0].sentences)


def test_why_33_59_gib_for_a_model_of_14():
    """A 7B model with 32 KV heads in vLLM 0.8.5: 37,120 tokens x 512 KiB are 18.125 GiB of KV cache."""
    engine = dataclasses.replace(
        reading(usage=0.25),
        vllm_version="0.8.5",
        max_model_len=4096,
        cache=CacheConfig(num_gpu_blocks=2320, block_size=16, gpu_memory_utilization=0.9),
    )
    log = StartLog(version="0.8.5", kv_tokens=37_120, ranks=(rank(weights=13.0406, cuda_graph=1.42),))
    explained = explain(snapshot(used=33.59 * GIB, total=40 * GIB, config=BAICHUAN_7B, engine=engine, log=log))
    parts = parts_of(explained)
    figures = {name: (round(part.bytes / GIB, 3), part.origin) for name, part in parts.items()}
    assert figures["weights"] == (13.041, Origin.REPORTED)
    assert figures["cuda_graphs"] == (1.42, Origin.REPORTED)
    assert figures["kv_used"] == (4.531, Origin.DERIVED)
    assert figures["kv_idle"] == (13.594, Origin.DERIVED)
    rest = parts["activation_reserve"].bytes + parts["engine_other"].bytes
    assert rest / GIB == pytest.approx(33.59 - 13.0406 - 1.42 - 18.125, abs=1e-6)
    assert sum(part.bytes for part in parts.values()) == 40 * GIB
    assert said(explained).startswith(
        "It holds 33.59 GiB on GPU 0 for 13.04 GiB of weights, because vLLM takes gpu_memory_utilization "
        "(0.9) x 39.50 GiB = 35.55 GiB as its budget"
    )
    assert "4.53 GiB (9,280 of 37,120 tokens) is in use now, 13.59 GiB is preallocated and idle" in said(explained)


QWEN3_4B_BYTES_PER_TOKEN = 36 * 2 * 8 * 128 * 2  # layers x (K, V) x KV heads x head_dim x bytes = 144 KiB


def test_what_0_5_leaves_of_22_gib_for_a_4b_model():
    """24 GiB at 0.9 for a 4B model; at 0.5 its start-up log says 17,440 tokens, so 0.4 x 24 GiB more at 0.9."""
    at_half = 17_440 * QWEN3_4B_BYTES_PER_TOKEN
    choices = {
        choice.gpu_memory_utilization: choice
        for choice in utilization_choices(
            gpu_memory_utilization=0.9,
            total_bytes=24 * GIB,
            kv_cache_bytes=at_half + 0.4 * 24 * GIB,
            kv_tokens=17_440 + 0.4 * 24 * GIB / QWEN3_4B_BYTES_PER_TOKEN,
            max_model_len=10_000,
        )
    }
    half = choices[0.5]
    assert (half.kv_tokens, half.starts) == (pytest.approx(17_440, abs=1), True)
    assert half.gives_back_bytes == round(0.4 * 24 * GIB)
    assert half.full_context_concurrency == pytest.approx(1.744, abs=1e-3)
    # The lowest hundredth that still holds 10,000 tokens gives up 7,440 x 144 KiB = 1.02 GiB more: 0.042 of 24 GiB.
    assert choices[0.46].starts
    assert choices[0.46].kv_tokens >= 10_000
    assert not choices[0.4].starts
    assert 0.3 not in choices, "one setting that does not start is enough to see where the end is"


def test_0_5_does_not_start_where_one_full_request_needs_more_than_it_leaves():
    """40,960 tokens are 5.62 GiB; 0.5 leaves 2.39."""
    (at_half,) = [
        choice
        for choice in utilization_choices(
            gpu_memory_utilization=0.6,
            total_bytes=24 * GIB,
            kv_cache_bytes=2.39 * GIB + 0.1 * 24 * GIB,
            kv_tokens=(2.39 + 2.4) * GIB / QWEN3_4B_BYTES_PER_TOKEN,
            max_model_len=40_960,
        )
        if choice.gpu_memory_utilization == 0.5
    ]
    assert round(at_half.kv_cache_bytes / GIB, 2) == 2.39
    assert not at_half.starts


@given(
    utilization=st.floats(0.05, 1.0),
    total=st.floats(4 * GIB, 300 * GIB),
    pool_share=st.floats(0.01, 0.9),
    tokens=st.integers(1, 10_000_000),
    length=st.integers(1, 1_000_000),
)
def test_a_lower_utilization_gives_back_more_and_never_leaves_more(utilization, total, pool_share, tokens, length):
    choices = utilization_choices(
        gpu_memory_utilization=utilization,
        total_bytes=total,
        kv_cache_bytes=pool_share * utilization * total,
        kv_tokens=tokens,
        max_model_len=length,
    )
    for higher, lower in itertools.pairwise(choices):
        assert higher.gpu_memory_utilization > lower.gpu_memory_utilization
        assert higher.gives_back_bytes <= lower.gives_back_bytes
        assert higher.kv_tokens >= lower.kv_tokens
        assert higher.starts >= lower.starts
    assert all(choice.starts == (choice.full_context_concurrency >= 1) for choice in choices)


def test_a_start_up_log_wins_over_estimates_and_makes_them_exact():
    without, log = snapshot(), StartLog(ranks=(rank(weights=15.5, cuda_graph=0.4),))
    estimated, reported = (
        parts_of(explain(without)),
        parts_of(explain(dataclasses.replace(without, start_logs=(found(log),)))),
    )
    assert estimated["weights"].origin is Origin.ESTIMATED
    assert estimated["weights"].lower_bytes < estimated["weights"].bytes < estimated["weights"].upper_bytes
    assert (reported["weights"].bytes, reported["weights"].origin) == (15.5 * GIB, Origin.REPORTED)
    assert reported["weights"].lower_bytes == reported["weights"].upper_bytes
    assert estimated["cuda_graphs"].upper_bytes > estimated["cuda_graphs"].bytes
    assert reported["cuda_graphs"].bytes == round(0.4 * GIB)


def test_vllms_own_estimate_of_its_graphs_is_an_estimate():
    figures = figures_of(None, rank(cuda_graph_estimated=0.5), pool_bytes=None)
    assert figures["cuda_graphs"].origin is Origin.ESTIMATED
    figures = figures_of(None, rank(cuda_graph_estimated=0.5, cuda_graph=0.25), pool_bytes=None)
    assert figures["cuda_graphs"] == exactly(0.25 * GIB, Origin.REPORTED)


def test_what_the_driver_shows_is_told_as_it_is():
    parts = parts_of(explain(snapshot(used=65 * GIB, processes=(gpu_process(101, 60 * GIB), gpu_process(7, 5 * GIB)))))
    assert (parts["foreign"].bytes, parts["foreign"].engine) == (5 * GIB, "")
    assert parts["free"].bytes == 80 * GIB - GIB // 2 - 65 * GIB
    assert parts["driver_reserved"].bytes == GIB // 2
    assert parts["weights"].engine == "127.0.0.1:8000"


def test_memory_beyond_the_plan_is_the_rest_and_its_sentence_names_what_vllm_measured():
    log = StartLog(ranks=(rank(weights=15.0, cuda_graph=0.5, activation_peak=1.0, non_torch=0.25, kv_cache=40.0),))
    engine = dataclasses.replace(reading(), cache=CacheConfig(kv_cache_size_tokens=100_000))
    parts = parts_of(explain(snapshot(used=60 * GIB, engine=engine, log=log)))
    assert parts["activation_reserve"].bytes == GIB
    assert parts["kv_idle"].bytes == 40 * GIB
    assert parts["engine_other"].bytes == round((60 - 15 - 0.5 - 1 - 40) * GIB)
    assert "0.25 GiB of it non-torch memory that vLLM measured" in parts["engine_other"].sentence


def test_the_kv_cache_is_what_vllm_printed_where_blocks_would_give_another_size():
    """100,000 tokens in 6,250 blocks of 16 are 12.2 GiB of Llama 8B; a hybrid's blocks are larger than that."""
    log = StartLog(ranks=(rank(weights=15.0, kv_cache=30.0),))
    assert parts_of(explain(snapshot(log=log)))["kv_idle"].bytes == 30 * GIB
    near = StartLog(ranks=(rank(weights=15.0, kv_cache=12.21),))
    assert parts_of(explain(snapshot(log=near)))["kv_idle"].bytes == 6250 * 16 * 128 * 1024


def test_each_gpu_of_a_tensor_parallel_engine_shows_its_own_rank():
    ranks = tuple(
        RankMemory(process=f"Worker_TP{number}", pid=200 + number, rank=number, weights_bytes=(8 + number) * GIB)
        for number in (0, 1)
    )
    two = Snapshot(
        now_seconds=1.0,
        gpus=(gpu(used=60 * GIB), gpu(used=60 * GIB, index=1)),
        gpu_processes=(gpu_process(101, 60 * GIB), gpu_process(201, 60 * GIB, index=1)),
        servers=(server("vllm serve /models/m -tp 2", pids=(100, 101, 201)),),
        engines=(reading(),),
        targets=(EngineTarget(engine="127.0.0.1:8000", url=URL, failing=None),),
        start_logs=(found(StartLog(ranks=ranks)),),
    )
    explained = explain(two)
    assert parts_of(explained)["weights"].bytes == 8 * GIB, "by its place: this process is not in the log"
    assert parts_of(explained, 1)["weights"].bytes == 9 * GIB, "by its process"
    assert "on each of its 2 GPUs" in said(explained)


def test_a_server_that_is_loading_holds_one_part_and_its_failed_start_is_told():
    error = StartError(
        kind="kv_cache_too_small",
        text="To serve at least one request ...",
        needed_kv_cache_bytes=round(5.62 * GIB),
        available_kv_cache_bytes=round(2.39 * GIB),
        max_model_len=40_960,
        largest_max_model_len=17_408,
    )
    loading = dataclasses.replace(
        snapshot(used=9 * GIB),
        engines=(),
        targets=(EngineTarget(engine="127.0.0.1:8000", url=URL, failing="connection_refused"),),
        start_logs=(found(StartLog(version="0.11.0", error=error)),),
    )
    explained = explain(loading)
    parts = parts_of(explained)
    assert parts["engine_other"].bytes == 9 * GIB
    assert "still loading" in parts["engine_other"].sentence
    assert explained.engines[0].failed
    assert explained.engines[0].sentences == (
        "It does not answer (connection_refused).",
        (
            "Its last start failed: one request of 40,960 tokens needs 5.62 GiB of KV cache, 2.39 GiB was left; "
            "--max-model-len 17408 fits."
        ),
    )
    other = dataclasses.replace(error, kind="out_of_memory", text="CUDA out of memory.", max_model_len=None)
    broken = dataclasses.replace(loading, start_logs=(found(StartLog(error=other)),))
    assert explain(broken).engines[0].sentences[-1] == "Its last start failed: CUDA out of memory."


def test_a_server_that_is_loading_has_its_name_from_the_config_on_its_gpu_too():
    named = EngineTarget(engine="chat", url=URL, failing="unreachable")
    explained = explain(dataclasses.replace(snapshot(), engines=(), targets=(named,)))
    assert [each.engine for each in explained.engines] == ["chat"]
    assert {part.engine for part in explained.gpus[0].parts if part.engine} == {"chat"}


def test_a_sleeping_engine_has_no_weights_and_no_cache_on_its_gpu():
    explained = explain(snapshot(used=2 * GIB, engine=reading(sleeping=True)))
    assert parts_of(explained)["weights"].bytes == 0
    assert parts_of(explained)["engine_other"].bytes == 2 * GIB
    assert "sleeps" in said(explained)


def test_without_rules_and_without_a_log_what_is_held_is_not_split_and_the_reason_is_told():
    explained = explain(snapshot(config=None))
    assert parts_of(explained)["engine_other"].bytes == 60 * GIB
    assert "no rules" in said(explained)


@pytest.mark.parametrize("flag", ["--kv-cache-memory-bytes", "--num-gpu-blocks-override"])
def test_where_a_flag_sizes_the_cache_utilization_is_not_offered(flag):
    explained = explain(snapshot(command=f"vllm serve /models/m {flag} 6250"))
    assert explained.engines[0].choices == ()
    assert f"because {flag} gives it" in said(explained)
    assert f"no effect here: {flag} sizes the KV cache" in said(explained)


def test_graphs_that_took_less_than_was_set_aside_are_told_with_their_worth_in_tokens():
    """2 GiB unused of 20 GiB for 100,000 tokens are worth 10,000."""
    log = StartLog(ranks=(rank(weights=15.0, kv_cache=20.0, cuda_graph=0.5, cuda_graph_estimated=2.5),))
    told = "vLLM set 2.50 GiB aside for CUDA graphs and used 0.50 GiB: 2.00 GiB, room for 10,000 tokens"
    engine = dataclasses.replace(reading(), cache=CacheConfig(kv_cache_size_tokens=100_000))
    assert told in said(explain(snapshot(engine=engine, log=log)))
    older = dataclasses.replace(engine, vllm_version="0.19.0")
    assert told not in said(explain(snapshot(engine=older, log=log))), "before 0.20 nothing is set aside"


def test_more_than_the_budget_is_explained_by_what_stands_outside_it():
    """0.92 x 79.5 GiB = 73.14 GiB."""
    assert "That is 1.36 GiB more than the budget: the CUDA context stands outside it." in said(
        explain(snapshot(used=74.5 * GIB))
    )
    assert "more than the budget" not in said(explain(snapshot(used=73 * GIB)))


def test_vllm_on_the_cpu_holds_main_memory_and_its_cache_is_explained():
    """96 blocks x 128 tokens x 128 KiB a token = 1.5 GiB."""
    engine = dataclasses.replace(
        reading(usage=0.5),
        vllm_version="0.32.0+cpu",
        cache=CacheConfig(num_gpu_blocks=96, kv_cache_size_tokens=12_288, num_gpu_blocks_override=96),
    )
    none = snapshot(engine=engine, command="vllm serve /models/m --block-size 128 --num-gpu-blocks-override 96")
    explained = explain(dataclasses.replace(none, gpus=(), gpu_processes=()))
    assert [(part.name, part.bytes) for part in explained.engines[0].parts] == [
        ("kv_used", 768 * MIB),
        ("kv_idle", 768 * MIB),
    ]
    assert said(explained) == (
        "It runs on the CPU and holds no GPU memory. Its KV cache is 1.50 GiB of main memory, 12,288 tokens, taken in "
        "full at start. 6,144 of them are in use now."
    )


def test_a_log_without_its_server_is_explained_alone():
    log = StartLog(
        version="0.7.3",
        gpu_memory_utilization=0.9,
        kv_tokens=449_808,
        ranks=(rank(weights=14.96, kv_cache=54.91, activation_peak=1.26, non_torch=0.16, total=79.22, budget=71.29),),
    )
    explained = explain(Snapshot(now_seconds=1.0, start_logs=(found(log, host=None, port=None),)))
    (engine,) = explained.engines
    assert {part.name: round(part.bytes / GIB, 2) for part in engine.parts} == {
        "weights": 14.96,
        "kv_idle": 54.91,
        "activation_reserve": 1.26,
        "engine_other": 0.16,
    }
    assert "gpu_memory_utilization (0.9) x 79.22 GiB = 71.29 GiB" in engine.sentences[0]
    assert not engine.failed


def test_a_server_elsewhere_is_explained_as_far_as_its_page_goes():
    remote = dataclasses.replace(snapshot(), servers=(), gpu_processes=(), gpus=())
    explained = explain(remote)
    assert explained.engines[0].kv_tokens == 100_000
    assert "No GPU of this engine can be seen from here" in said(explained)


def test_a_gpu_whose_driver_does_not_tell_its_memory_is_not_explained():
    silent = dataclasses.replace(snapshot(), gpus=(gpu().__class__(gpu="0", uuid="GPU-0"),))
    assert explain(silent).gpus == ()


def test_what_an_engine_holds_is_not_made_up_where_the_driver_does_not_tell_it():
    """WSL, a virtual GPU: two processes, no figure of either. The KV cache is 100,000 tokens of 128 KiB."""
    explained = explain(snapshot(processes=(gpu_process(101, None), gpu_process(900, None))))
    (judged,) = explained.gpus
    assert (judged.parts, judged.why_no_parts) == ((), "60.00 GiB are in use; the driver does not tell by whom.")
    parts = {part.name: part for part in explained.engines[0].parts}
    assert list(parts) == ["weights", "kv_used", "kv_idle", "cuda_graphs"]
    assert parts["kv_idle"].bytes == 100_000 * 131_072
    assert "What it holds on GPU 0 the driver does not tell" in said(explained)
    assert "0.00 GiB on GPU" not in said(explained)


def test_memory_of_nobody_in_sight_is_not_said_to_be_no_vllms():
    """A container with a PID namespace of its own is shown no process at all."""
    sentence = parts_of(explain(dataclasses.replace(snapshot(), gpu_processes=())))["foreign"].sentence
    assert sentence == "Held by processes that are no vLLM server, or not in sight here: an engine may be among these."


_sizes = st.floats(0, 90.0)


@given(
    used=st.integers(0, 79 * GIB),
    held=st.lists(st.integers(0, 100 * GIB), min_size=1, max_size=3),
    foreign=st.integers(0, 20 * GIB),
    usage=st.floats(0, 1),
    measured=st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("weights", "kv_cache", "cuda_graph", "activation_peak", "non_torch"), _sizes)
    ),
)
def test_parts_always_add_up_to_the_total_exactly_and_lie_within_their_bounds(used, held, foreign, usage, measured):
    servers = tuple(server(pids=(10 + number,), port=8000 + number) for number in range(len(held)))
    engines = tuple(
        dataclasses.replace(reading(usage=usage), engine=f"e{number}", url=f"http://127.0.0.1:{8000 + number}")
        for number in range(len(held))
    )
    explained = explain(
        Snapshot(
            now_seconds=1.0,
            gpus=(gpu(used=used),),
            gpu_processes=(*(gpu_process(10 + n, size) for n, size in enumerate(held)), gpu_process(7, foreign)),
            servers=servers,
            engines=engines,
            targets=tuple(EngineTarget(engine=each.engine, url=each.url, failing=None) for each in engines),
            start_logs=(found(StartLog(ranks=(rank(**measured),)), host=None, port=None),),
        )
    )
    (one,) = explained.gpus
    assert sum(part.bytes for part in one.parts) == one.total_bytes
    assert {part.name for part in one.parts} == set(COMPONENTS)
    for part in one.parts:
        assert part.lower_bytes <= part.bytes <= part.upper_bytes
        assert part.bytes >= -8
