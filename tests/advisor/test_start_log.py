"""Logs of servers that we ran on the CPU, and lines made from vLLM's templates with figures of no machine."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.start_log import StartLog, parse_start_log, parse_start_logs
from advisor.units import GIB

CAPTURES = Path(__file__).parents[1] / "captures" / "vllm"


def captured(version, name):
    return (CAPTURES / version / f"{name}.log").read_text(encoding="utf-8").splitlines(keepends=True)


def in_gib(size_bytes):
    return None if size_bytes is None else round(size_bytes / GIB, 4)


def v0(*messages, file="worker.py:237"):
    """Spell messages as releases before 0.10 without V1 do."""
    return [f"INFO 12-13 02:10:28 {file}] {message}" for message in messages]


def v1(*messages, process="EngineCore_DP0", pid=123):
    return [f"({process} pid={pid}) INFO 11-20 23:09:25 [gpu_worker.py:298] {message}" for message in messages]


V0_2_7 = v0(
    "Initializing an LLM engine with config: model='/models/m', tokenizer='/models/m', tokenizer_mode=auto, "
    "revision=None, trust_remote_code=False, dtype=torch.float16, max_seq_len=2048, download_dir=None, "
    "load_format=auto, tensor_parallel_size=1, quantization=None, enforce_eager=False, seed=0)",
    "# GPU blocks: 7351, # CPU blocks: 512",
    "Graph capturing finished in 12 secs.",
)
V0_6_4 = v0(
    "vLLM API server version 0.6.4",
    "args: Namespace(host=None, port=8000, api_key='sk-secret', model='/models/m', max_model_len=8192, "
    "gpu_memory_utilization=0.9, enforce_eager=False, speculative_config={'model': 'draft', 'max_model_len': 7})",
    "Initializing an LLM engine (v0.6.4) with config: model='/models/m', dtype=torch.bfloat16, max_seq_len=8192",
    "Loading model weights took 14.9595 GB",
    "Memory profiling results: total_gpu_memory=79.15GiB initial_memory_usage=15.68GiB peak_torch_memory=16.32GiB "
    "memory_usage_post_profile=16.02Gib non_torch_memory=0.66GiB kv_cache_size=54.25GiB gpu_memory_utilization=0.90",
    "# GPU blocks: 27776, # CPU blocks: 2048",
    "Maximum concurrency for 8192 tokens per request: 54.25x",
    "Graph capturing finished in 12 secs, took 0.31 GiB",
)
V0_7_3 = v0(
    "Initializing a V0 LLM engine (v0.7.3) with config: model='/models/m', dtype=torch.bfloat16, max_seq_len=8192",
    "Loading model weights took 14.9600 GB",
    "Memory profiling takes 0.91 seconds",
    "the current vLLM instance can use total_gpu_memory (79.22GiB) x gpu_memory_utilization (0.90) = 71.29GiB",
    "model weights take 14.96GiB; non_torch_memory takes 0.16GiB; PyTorch activation peak memory takes 1.26GiB; "
    "the rest of the memory reserved for KV Cache is 54.91GiB.",
    "# cuda blocks: 28113, # CPU blocks: 2048",
    "Maximum concurrency for 8192 tokens per request: 54.91x",
    "Graph capturing finished in 13 secs, took 0.29 GiB",
    "init engine (profile, create kv cache, warmup model) took 18.50 seconds",
)
V1_0_8_5 = v0(
    "vLLM API server version 0.8.5",
    "Chunked prefill is enabled with max_num_batched_tokens=8192.",
    "Initializing a V1 LLM engine (v0.8.5) with config: model='/models/m', dtype=torch.float16, max_seq_len=4096, "
    "tensor_parallel_size=1, pipeline_parallel_size=1, enforce_eager=False",
    "Model loading took 13.0000 GiB and 6.250000 seconds",
    "GPU KV cache size: 37,120 tokens",
    "Maximum concurrency for 4,096 tokens per request: 9.06x",
    "Graph capturing finished in 26 secs, took 1.42 GiB",
    "init engine (profile, create kv cache, warmup model) took 59.25 seconds",
    file="[gpu_model_runner.py:1347]"[:-1],
)
V1_0_10_2 = v1(
    "Initializing a V1 LLM engine (v0.10.2) with config: model='/models/m', dtype=torch.bfloat16, max_seq_len=40960",
    "Model loading took 14.9889 GiB and 9.100000 seconds",
    "Available KV cache memory: 54.11 GiB",
    "GPU KV cache size: 393,984 tokens",
    "Maximum concurrency for 40,960 tokens per request: 9.62x",
    "Graph capturing finished in 20 secs, took 0.84 GiB",
    "Free memory on device (78.68/79.19 GiB) on startup. Desired GPU memory utilization is (0.9, 71.27 GiB). Actual "
    "usage is 14.99 GiB for weight, 2.03 GiB for peak activation, 0.14 GiB for non-torch memory, and 0.84 GiB for "
    "CUDAGraph memory. Replace gpu_memory_utilization config with `--kv-cache-memory=57000000000` to fit into "
    "requested memory, or `--kv-cache-memory=65000000000` to fully utilize gpu memory. Current kv cache memory in use "
    "is 58100170424 bytes.",
)
V1_0_26 = v1(
    "Initializing a V1 LLM engine (v0.26.0) with config: model='/models/m', dtype=torch.bfloat16, max_seq_len=40960",
    "Model loading took 14.99 GiB memory and 9.100000 seconds",
    "Profiling CUDA graph memory: PIECEWISE=51 (largest=512), FULL=35 (largest=256)",
    "Overriding num_gpu_blocks=0 with num_gpu_blocks_override=512",
    "Estimated CUDA graph memory: 0.36 GiB total",
    "Available KV cache memory: 54.8 GiB",
    "GPU KV cache size: 399,008 tokens",
    "Maximum concurrency for 40,960 tokens per request: 9.74x",
    "CUDA graph pool memory: 0.41 GiB (actual), 0.36 GiB (estimated), difference: 0.05 GiB (12.2%).",
)
V1_0_33 = v1(
    "Initializing a V1 LLM engine (v0.33.0) with config: model='/models/m', dtype=torch.bfloat16, max_seq_len=40960",
    "Model loading took 14.99 GiB memory and 9.100000 seconds",
    "Estimated CUDA graph memory: 0.40 GiB total",
    "Available KV cache memory: 54.8 GiB",
    "GPU KV cache size: 399,008 tokens, Maximum concurrency for 40,960 tokens per request: 9.74x",
    "CUDA graph pool memory: 0.45 GiB (actual), 0.4 GiB (estimated), difference: 0.05 GiB (11.1%).",
    "Free memory on device (78.6/79.2 GiB) on startup. Desired GPU memory utilization is (0.92, 72.86 GiB). Actual "
    "usage is 15.2 GiB for consumed memory (weights + non-torch), 2.86 GiB for peak activation, and 0.45 GiB for "
    "CUDAGraph memory. Replace gpu_memory_utilization config with `--kv-cache-memory=58` (54.4 GiB) to fit into "
    "requested memory, or `--kv-cache-memory=63` (59.6 GiB) to fully utilize gpu memory. Current kv cache memory in "
    "use is 54.8 GiB.",
    "init engine (profile, create kv cache, warmup model) took 27.10 s (compilation: 9.20 s)",
)

ERAS = {
    "0.2.7": (V0_2_7, {"num_gpu_blocks": 7351, "max_model_len": 2048, "dtype": "float16"}, {}),
    "0.6.4": (
        V0_6_4,
        {
            "version": "0.6.4",
            "num_gpu_blocks": 27776,
            "max_concurrency": 54.25,
            "max_model_len": 8192,
            "gpu_memory_utilization": 0.9,
        },
        # the peak that is printed has the weights in it
        {
            "weights": 14.9595,
            "kv_cache": 54.25,
            "activation_peak": 1.3605,
            "non_torch": 0.66,
            "cuda_graph": 0.31,
            "total": 79.15,
        },
    ),
    "0.7.3": (
        V0_7_3,
        {"version": "0.7.3", "num_gpu_blocks": 28113, "gpu_memory_utilization": 0.9, "init_seconds": 18.5},
        {
            "weights": 14.96,
            "kv_cache": 54.91,
            "activation_peak": 1.26,
            "non_torch": 0.16,
            "cuda_graph": 0.29,
            "total": 79.22,
            "budget": 71.29,
        },
    ),
    "0.8.5": (
        V1_0_8_5,
        {
            "version": "0.8.5",
            "kv_tokens": 37120,
            "max_concurrency": 9.06,
            "max_model_len": 4096,
            "max_num_batched_tokens": 8192,
            "init_seconds": 59.25,
            "tensor_parallel_size": 1,
            "enforce_eager": False,
        },
        {"weights": 13.0, "cuda_graph": 1.42, "kv_cache": None},
    ),
    "0.10.2": (
        V1_0_10_2,
        {"version": "0.10.2", "kv_tokens": 393984, "gpu_memory_utilization": 0.9},
        {
            "weights": 14.99,
            "kv_cache": 54.11,
            "activation_peak": 2.03,
            "non_torch": 0.14,
            "cuda_graph": 0.84,
            "free": 78.68,
            "total": 79.19,
            "budget": 71.27,
        },
    ),
    "0.26": (
        V1_0_26,
        {"version": "0.26.0", "kv_tokens": 399008, "num_gpu_blocks_override": None},
        {"weights": 14.99, "kv_cache": 54.8, "cuda_graph": 0.41, "cuda_graph_estimated": 0.36},
    ),
    "0.33": (
        V1_0_33,
        {"version": "0.33.0", "kv_tokens": 399008, "max_concurrency": 9.74, "init_seconds": 27.1},
        # consumed 15.2 is weights and non-torch; the peak activation that is printed has the estimated graphs in it
        {
            "weights": 14.99,
            "consumed": 15.2,
            "non_torch": 0.21,
            "activation_peak": 2.46,
            "cuda_graph": 0.45,
            "cuda_graph_estimated": 0.4,
        },
    ),
}


@pytest.mark.parametrize("era", ERAS)
def test_every_era_prints_its_figures_and_no_others_are_invented(era):
    lines, said, measured = ERAS[era]
    start = parse_start_log(lines)
    assert {name: getattr(start, name) for name in said} == said
    assert start.model == "/models/m"
    if measured:
        (rank,) = start.ranks
        assert {name: in_gib(getattr(rank, f"{name}_bytes")) for name in measured} == measured
    else:
        assert start.ranks == ()
    assert start.error is None


def test_a_real_server_of_0_32_is_read_whole():
    start = parse_start_log(captured("0.32.0", "single"))
    assert (start.version, start.model, start.dtype) == ("0.32.0", "/models/tiny", "bfloat16")
    assert start.flags == {
        "model": "/models/tiny",
        "host": "127.0.0.1",
        "port": 52801,
        "dtype": "bfloat16",
        "max_model_len": 2048,
        "load_format": "dummy",
        "block_size": 128,
        "num_gpu_blocks_override": 96,
        "max_num_seqs": 64,
    }
    assert (start.kv_tokens, start.max_concurrency, start.num_gpu_blocks_override) == (12_288, 6.0, 96)
    assert start.init_seconds == 25.66
    assert [(rank.process, rank.pid, rank.kv_cache_bytes) for rank in start.ranks] == [("Worker", 5588, GIB)]
    assert start.error is None


def test_a_real_server_of_0_27_prints_capacity_in_two_lines_and_calls_it_gpu():
    start = parse_start_log(captured("0.27.0", "single"))
    assert (start.version, start.kv_tokens, start.max_concurrency) == ("0.27.0", 12_288, 6.0)


@pytest.mark.parametrize(("version", "largest"), [("0.27.0", 524_288), ("0.32.0", 524_160)])
def test_a_real_start_that_failed_says_what_was_needed_and_what_would_have_fitted(version, largest):
    start = parse_start_log(captured(version, "start_failing"))
    assert start.error.kind == "kv_cache_too_small"
    assert start.error.text.startswith("To serve at least one request with the model's max seq len (1048576)")
    assert (start.error.needed_kv_cache_bytes, start.error.available_kv_cache_bytes) == (2 * GIB, GIB)
    assert (start.error.max_model_len, start.error.largest_max_model_len) == (1_048_576, largest)
    assert start.kv_tokens is None


@pytest.mark.parametrize("version", ["0.27.0", "0.32.0"])
def test_real_ranks_are_told_apart_and_found_by_process_or_by_place(version):
    start = parse_start_log(captured(version, "start_tensor_parallel_2"))
    assert [(rank.process, rank.rank) for rank in start.ranks] == [("Worker_TP0", 0), ("Worker_TP1", 1)]
    assert start.kv_tokens == 1_024_000
    second = start.ranks[1]
    assert start.on_gpu([second.pid], 0).process == "Worker_TP1"
    assert start.on_gpu([1], 1).process == "Worker_TP1", "another PID namespace: the place decides"
    assert start.on_gpu([1], 7).process == "Worker_TP0"
    assert StartLog().on_gpu([1], 0) is None


def test_two_real_data_parallel_engines_are_one_start():
    (start,) = parse_start_logs(captured("0.32.0", "data_parallel_2"))
    assert (start.kv_tokens, len(start.ranks), start.init_seconds) == (512_000, 2, 45.56)


def test_of_several_starts_in_one_log_the_last_counts_and_all_can_be_had():
    log = [*captured("0.32.0", "start_failing"), *captured("0.27.0", "single"), *V0_7_3, *V0_2_7, *V0_2_7]
    starts = parse_start_logs(log)
    assert [start.version for start in starts] == ["0.32.0", "0.27.0", "0.7.3", None, None]
    assert [start.error is not None for start in starts] == [True, False, False, False, False]
    assert parse_start_log(log) == starts[-1]


def test_lines_repeated_by_every_rank_without_a_name_keep_the_tightest():
    log = v0("Available KV cache memory: 55.71 GiB", "Available KV cache memory: 55.62 GiB", "# GPU blocks: 9")
    start = parse_start_log([*log, *v0("# GPU blocks: 8"), *v0("GPU KV cache size: 9,168 tokens")])
    assert (in_gib(start.kv_cache_bytes), start.num_gpu_blocks, start.kv_tokens) == (55.62, 8, 9168)


@pytest.mark.parametrize(
    ("line", "process", "rank"),
    [
        ("\x1b[1;36m(Worker_TP3 pid=7)\x1b[0;0m INFO 11-20 23:09:25 [w.py:1] ", "Worker_TP3", 3),
        ("\x1b[1;36m(EngineCore_DP1 pid=6)\x1b[0;0m (Worker_PP1_TP2 pid=7) INFO 11-20 23:09:25 [w.py:1] ", None, 2),
        ("(VllmWorker rank=5 pid=7) INFO 05-16 01:49:36 [w.py:1] ", "VllmWorker", 5),
        ("(VllmWorker TP6 pid=7) \x1b[32mINFO\x1b[0m 05-16 01:49:36 [w.py:1] ", "VllmWorker TP6", 6),
        ("(RayWorkerWrapper pid=7, ip=192.0.2.7) INFO 05-16 01:49:36 w.py:1] ", "RayWorkerWrapper", 0),
        ("2026-11-20T23:09:25.123456789Z stdout F (Worker_TP1 pid=7) INFO 11-20 23:09:25 [w.py:1] ", "Worker_TP1", 1),
        ("vllm-1  | (Worker_TP1 pid=7) INFO 11-20 23:09:25 [v1/worker/gpu_worker.py:1] ", "Worker_TP1", 1),
        ("Nov 20 23:09:25 host vllm[7]: (Worker_TP1 pid=7) INFO 11-20 23:09:25 [w.py:1] ", "Worker_TP1", 1),
    ],
)
def test_the_speaker_is_read_from_whatever_stands_in_front(line, process, rank):
    (found,) = parse_start_log([f"{line}Loading model weights took 1.5000 GB [repeated 6x across cluster]\r\n"]).ranks
    assert (found.rank, found.pid, found.weights_bytes) == (rank, 7, 1.5 * GIB)
    assert process in (None, found.process)


def test_pipeline_stages_come_in_order_before_ranks():
    lines = [
        line
        for name, size in (("Worker_PP1_TP0", 3), ("Worker_PP0_TP1", 2), ("Worker_PP0_TP0", 1))
        for line in v1(f"Model loading took {size}.0 GiB memory and 1.000000 seconds", process=name, pid=size)
    ]
    assert [rank.pid for rank in parse_start_log(lines).ranks] == [1, 2, 3]


@pytest.mark.parametrize("key", ["message", "log", "MESSAGE"])
def test_json_lines_are_unwrapped(key):
    (text,) = v1("Available KV cache memory: 54.8 GiB")
    assert in_gib(parse_start_log([json.dumps({key: text + "\n", "stream": "stdout"})]).kv_cache_bytes) == 54.8
    vllms_own = {"message": "Available KV cache memory: 2 GiB", "processName": "Worker_TP1", "process": 9}
    assert parse_start_log([json.dumps(vllms_own)]).ranks[0].pid == 9


def test_no_key_is_kept_and_what_a_nested_mapping_names_is_no_flag():
    start = parse_start_log(V0_6_4)
    assert start.flags == {
        "port": 8000,
        "model": "/models/m",
        "max_model_len": 8192,
        "gpu_memory_utilization": 0.9,
        "enforce_eager": False,
    }
    assert "secret" not in repr(start)


def test_the_graph_estimate_is_not_taken_out_where_it_was_not_put_in():
    off = v1("CUDA graph memory profiling is disabled (VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS=0). Without it, ...")
    (rank,) = parse_start_log([*V1_0_33, *off]).ranks
    assert in_gib(rank.activation_peak_bytes) == 2.86


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("ValueError: No available memory for the cache blocks. Try increasing `x`.", "no_kv_cache_memory"),
        (
            (
                "ValueError: The model's max seq len (131072) is larger than the maximum number of tokens that can be "
                "stored in KV cache (53376). Try increasing `gpu_memory_utilization` or decreasing `max_model_len`."
            ),
            "kv_cache_too_small",
        ),
        (
            (
                "ValueError: To serve at least one request with the models's max seq len (40960), (5.62 GB KV cache is "
                "needed, which is larger than the available KV cache memory (2.39 GB). Try increasing ..."
            ),
            "kv_cache_too_small",
        ),
        (
            (
                "ValueError: Free memory on device cuda:0 (10.0/79.2 GiB) on startup is less than desired GPU memory "
                "utilization (0.92, 72.86 GiB). Decrease GPU memory utilization or reduce GPU memory used by others."
            ),
            "too_little_free_memory",
        ),
        (
            "AssertionError: Error in memory profiling. Initial free memory 1.0 GiB, current free memory 2.0 GiB. ...",
            "free_memory_changed",
        ),
        (
            "RuntimeError: CUDA out of memory occurred when warming up sampler with 1024 dummy requests. Please ...",
            "out_of_memory",
        ),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.02 GiB. GPU 0 has ...", "out_of_memory"),
        (
            "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 3.59 GiB. GPU 0 has ...",
            "out_of_memory",
        ),
        ("RuntimeError: Engine core initialization failed. See root cause above. Failed ...", "engine_failed"),
        ("RuntimeError: Engine process failed to start. See stack trace for the root cause.", "engine_failed"),
    ],
)
def test_each_start_up_error_is_known_by_kind_in_its_own_words(line, kind):
    for spelling in (
        line,
        f"(EngineCore_DP0 pid=3) ERROR 11-20 23:09:25 [core.py:9] {line}",
        f"(APIServer pid=1) {line}",
    ):
        error = parse_start_log([spelling]).error
        assert (error.kind, line.endswith(error.text)) == (kind, True)


def test_the_cause_of_a_failed_start_is_not_hidden_by_what_follows():
    wrapper = "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"
    oom = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.02 GiB."
    assert parse_start_log([oom, wrapper]).error.kind == "out_of_memory"
    assert parse_start_log([wrapper, oom]).error.kind == "out_of_memory"


def test_a_log_without_a_start_says_so():
    assert parse_start_log([]) is None
    assert parse_start_log(["INFO:     127.0.0.1:1 - GET /metrics", "what a model writes: # GPU blocks"]) is None


def test_what_a_request_holds_is_not_taken_for_the_engines_words():
    told = "Received request cmpl-1: prompt: '# GPU blocks: 5, # CPU blocks: 1', params: SamplingParams(n=1)"
    assert parse_start_log(v0(told)) is None


_PIECES = [
    *(line for lines, _, _ in ERAS.values() for line in lines),
    "(Worker_TP0 pid=99999999999999999999) INFO 11-20 23:09:25 [w.py:1] Loading model weights took 1.0 GB",
    '{"message": "' + "[" * 3000,
    "non-default args: {'max_model_len': 99999999999999999999999, 'gpu_memory_utilization': 1e999, 'a': {{{[(",
    "\u2588 version \u2588 version 1",
]


@given(
    st.lists(
        st.one_of(
            st.text(max_size=200),
            st.sampled_from(_PIECES),
            st.builds(lambda piece, cut: piece[:cut] + piece[cut + 1 :], st.sampled_from(_PIECES), st.integers(0, 300)),
        ),
        max_size=20,
    )
)
def test_garbage_is_stepped_over_and_never_raises(lines):
    for start in parse_start_logs(lines):
        for rank in start.ranks:
            assert rank.weights_bytes is None or rank.weights_bytes < 1e9 * GIB
