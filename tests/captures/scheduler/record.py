"""Record what vLLM's own scheduler does, step by step, over random scenarios.

The engine loop (``EngineCore.step`` and ``step_with_batch_queue``), the scheduler and the KV cache manager are
vLLM's; only the model is made up: a request whose known tokens have all been computed gets one more token. Needs
vLLM (0.17 to 0.33) and no GPU. The same release and arguments write the same bytes. See README.md for the format.
"""

import argparse
import dataclasses
import gzip
import json
import random
import tempfile
from collections import Counter, deque
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import vllm
from vllm.config import CacheConfig, ModelConfig, SchedulerConfig, VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreEventType
from vllm.v1.engine.core import EngineCore
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

KINDS = (
    "mixed",
    "pressure",
    "tiny",
    "long",
    "shared",
    "active",
    "priority",
    "threshold",
    "watermark",
    "unchunked",
    "aborts",
    "eos",
)
LATER_FLAGS = {
    "scheduler_reserve_full_isl": False,
    "watermark": 0.0,
    "max_num_active_seqs": None,
    "long_prefill_token_threshold_adaptive": False,
}
"""Flags that this release may not have, and the value that says so."""
FLAGS = {field.name for field in dataclasses.fields(SchedulerConfig)}
END_OF_SEQUENCE = 1
MODEL = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "vocab_size": 128,
    "max_position_embeddings": 8192,
    "torch_dtype": "bfloat16",
}


def make_scenario(kind: str, rng: random.Random) -> dict[str, Any]:
    """Draw the flags and the requests of one scenario; each kind strains one rule."""
    block_size = rng.choice((1, 2, 3, 4) if kind == "tiny" else (4, 8, 16))
    crowded = kind in ("tiny", "pressure", "priority")
    usable_blocks = rng.randint(6, 24) if crowded else rng.choice((11, 19, 39, 79, 159))
    max_model_len = min(usable_blocks * block_size, rng.choice((48, 96, 160, 320)))
    max_num_seqs = rng.choice((6, 8, 12, 16) if crowded else (1, 2, 4, 8, 16))
    if kind == "unchunked":
        budget = max_model_len + rng.choice((0, 7, 40))
    elif kind == "long":
        budget = max(max_num_seqs, rng.choice((8, 12, 16)))
    else:
        budget = rng.choice((16, 24, 32, 64, 128))
    config: dict[str, Any] = {
        "num_gpu_blocks": usable_blocks + 1,
        "block_size": block_size,
        "max_num_seqs": max_num_seqs,
        "max_num_batched_tokens": max(budget, max_num_seqs),
        "max_model_len": max_model_len,
        "max_num_active_seqs": rng.randint(1, max_num_seqs) if kind == "active" or rng.random() < 0.1 else None,
        "enable_prefix_caching": kind == "shared" or rng.random() < 0.6,
        "enable_chunked_prefill": kind != "unchunked",
        "scheduling_policy": "priority" if kind == "priority" or rng.random() < 0.2 else "fcfs",
        "async_scheduling": rng.random() < 0.5,
        "scheduler_reserve_full_isl": rng.random() < (0.3 if kind == "pressure" else 0.7),
        "watermark": rng.choice((0.05, 0.1, 0.2)) if kind == "watermark" or rng.random() < 0.1 else 0.0,
        "long_prefill_token_threshold": 0,
        "long_prefill_token_threshold_adaptive": False,
    }
    if kind == "threshold" or rng.random() < 0.1:
        config["long_prefill_token_threshold"] = min(max_model_len, rng.choice((1, 5, 8, 16, 30)))
        config["long_prefill_token_threshold_adaptive"] = rng.random() < 0.5
    config |= {name: off for name, off in LATER_FLAGS.items() if name not in FLAGS}

    spread = rng.choice((0, 10) if kind == "pressure" else (0, 10, 40, 120))
    prefixes = [rng.randint(max_model_len // 3 if kind == "shared" else 1, max_model_len - 1) for _ in range(2)]
    share = 0.8 if kind == "shared" else 0.3
    requests: list[dict[str, Any]] = []
    for _ in range(rng.randint(12, 24) if kind == "pressure" else rng.randint(4, 20)):
        longest = max_model_len - 1 if kind in ("long", "mixed", "threshold") else max(1, max_model_len * 2 // 3)
        if kind == "pressure":
            longest = max(1, max_model_len // 5)
        prompt_tokens = min(max_model_len - 1, rng.randint(1, longest))
        most = max_model_len if kind == "pressure" else max(2, max_model_len // 2)
        max_tokens = rng.randint(1, most) if rng.random() < 0.9 else max_model_len
        group = rng.randrange(len(prefixes)) if rng.random() < share else None
        requests.append(
            {
                "step": rng.randint(0, spread),
                "prompt_tokens": prompt_tokens,
                "max_tokens": max_tokens,
                "eos_after": rng.randint(1, max_tokens + 3) if rng.random() < (0.7 if kind == "eos" else 0.1) else None,
                "prefix_group": group,
                "shared_prefix_tokens": 0 if group is None else min(prompt_tokens, prefixes[group]),
                "priority": rng.randint(0, 2),
            }
        )
    requests.sort(key=lambda request: request["step"])
    ties = rng.random() < 0.3
    for position, request in enumerate(requests):
        request["arrival_time"] = request["step"] // 5 if ties else position
    aborts = [
        [rng.randint(requests[position]["step"], requests[position]["step"] + 40), position]
        for position in range(len(requests))
        if rng.random() < (0.4 if kind == "aborts" else 0.03)
    ]
    return {"config": config, "requests": requests, "aborts": sorted(aborts)}


def make_scheduler(config: dict[str, Any], model_folder: str) -> Scheduler:
    """Build vLLM's scheduler for these flags, with one group of full-attention layers."""
    flags = {name: value for name, value in config.items() if name in FLAGS and name != "max_model_len"}
    vllm_config = VllmConfig(
        model_config=ModelConfig(
            model=model_folder,
            skip_tokenizer_init=True,
            dtype="bfloat16",
            max_model_len=config["max_model_len"],
        ),
        cache_config=CacheConfig(
            block_size=config["block_size"],
            enable_prefix_caching=config["enable_prefix_caching"],
        ),
        scheduler_config=SchedulerConfig(
            max_model_len=config["max_model_len"],
            is_encoder_decoder=False,
            policy=config["scheduling_policy"],
            **flags,
        ),
    )
    # Platforms adjust some flags to what they can run; the scheduler is to see them as they were drawn.
    vllm_config.cache_config.block_size = config["block_size"]
    vllm_config.cache_config.enable_prefix_caching = config["enable_prefix_caching"]
    vllm_config.cache_config.num_gpu_blocks = config["num_gpu_blocks"]
    for name, value in flags.items():
        setattr(vllm_config.scheduler_config, name, value)
    spec = FullAttentionSpec(block_size=config["block_size"], num_kv_heads=1, head_size=64, dtype=torch.bfloat16)
    return (AsyncScheduler if config["async_scheduling"] else Scheduler)(
        vllm_config=vllm_config,
        kv_cache_config=KVCacheConfig(
            num_blocks=config["num_gpu_blocks"],
            kv_cache_tensors=[],
            kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)],
        ),
        structured_output_manager=StructuredOutputManager(vllm_config),
        block_size=config["block_size"],
        log_stats=True,
    )


class Pending(Future[ModelRunnerOutput]):
    """A result that is there when it is waited for, not before: older releases look whether it is done."""

    def done(self) -> bool:
        return False


class Model:
    """Stands in for the executor: one token for each request that is not in the middle of its prefill."""

    def __init__(self, scheduler: Scheduler, scenario: dict[str, Any]) -> None:
        self._scheduler = scheduler
        self._requests = scenario["requests"]
        self._sampled: Counter[str] = Counter()
        self._pending = Pending()

    def execute_model(self, scheduler_output: Any, non_block: bool = False) -> Future[ModelRunnerOutput]:
        ids = list(scheduler_output.num_scheduled_tokens)
        tokens = [[] if self._scheduler.requests[each].is_prefill_chunk else [self._sample(each)] for each in ids]
        self._pending = Pending()
        self._pending.set_result(
            ModelRunnerOutput(
                req_ids=ids,
                req_id_to_index={each: position for position, each in enumerate(ids)},
                sampled_token_ids=tokens,
            )
        )
        return self._pending

    def sample_tokens(self, grammar_output: Any, non_block: bool = False) -> Future[ModelRunnerOutput]:
        return self._pending

    def _sample(self, request_id: str) -> int:
        self._sampled[request_id] += 1
        if self._sampled[request_id] == self._requests[int(request_id)]["eos_after"]:
            return END_OF_SEQUENCE
        return (int(request_id) + 1) * 1_000_000 + 500_000 + self._sampled[request_id]


class Engine(EngineCore):
    """vLLM's engine loop without the process, the sockets and the model around it."""

    def __init__(self, scheduler: Scheduler, model: Model, *, is_async: bool) -> None:
        self.scheduler = scheduler
        self.vllm_config = scheduler.vllm_config
        self.model_executor = model
        self.log_stats = False
        self.is_mm_encoder_only = False
        self.is_pooling_model = False
        self.is_ec_consumer = True
        self.use_spec_decode = False
        self.check_for_draft_tokens = False
        self.async_scheduling = is_async
        self.batch_queue_size = 2
        self.batch_queue = deque(maxlen=2) if is_async else None
        self._weight_version = None

    def _process_aborts_queue(self) -> None:
        """Aborts come between steps here."""


def token_ids(scenario: dict[str, Any], position: int) -> list[int]:
    """Spell a prompt so that it shares with its group what the scenario says, and nothing else with anyone."""
    request = scenario["requests"][position]
    shared = request["shared_prefix_tokens"]
    return [
        (request["prefix_group"] + 1) * 1_000_000_000 + place if place < shared else (position + 1) * 1_000_000 + place
        for place in range(request["prompt_tokens"])
    ]


def run(scenario: dict[str, Any], model_folder: str) -> list[list[Any]]:
    """Return one record a step, as README.md describes them."""
    config = scenario["config"]
    is_async = config["async_scheduling"]
    scheduler = make_scheduler(config, model_folder)
    engine = Engine(scheduler, Model(scheduler, scenario), is_async=is_async)
    hasher = get_request_block_hasher(config["block_size"], sha256)
    pool = scheduler.kv_cache_manager.block_pool

    # Note what the two halves of a step see, in the moment.
    victims: list[int] = []
    batches: list[list[Any]] = []
    outputs: list[list[Any]] = []
    step_of: dict[int, int] = {}
    preempt, schedule, update = scheduler._preempt_request, scheduler.schedule, scheduler.update_from_output

    def noting_preempt(request: Request, *args: Any, **more: Any) -> None:
        victims.append(int(request.request_id))
        preempt(request, *args, **more)

    def noting_schedule(*args: Any) -> Any:
        output = schedule(*args)
        step_of[id(output)] = step
        batches.append(
            [
                [[int(each), tokens] for each, tokens in output.num_scheduled_tokens.items()],
                victims.copy(),
                [int(request.request_id) for request in scheduler.running],
                [int(request.request_id) for request in scheduler.waiting],
                pool.get_num_free_blocks(),
            ]
        )
        victims.clear()
        return output

    def noting_update(scheduler_output: Any, model_output: Any) -> Any:
        results = update(scheduler_output, model_output)
        (core_outputs,) = results.values()
        stats = core_outputs.scheduler_stats
        outputs.append(
            [
                step_of.pop(id(scheduler_output)),
                [int(each.request_id) for each in core_outputs.outputs],
                [int(each.request_id) for each in core_outputs.outputs if each.finish_reason is not None],
                [
                    int(each.request_id)
                    for each in core_outputs.outputs
                    for event in each.events or ()
                    if event.type == EngineCoreEventType.PREEMPTED
                ],
                pool.get_num_free_blocks(),
                [
                    stats.num_running_reqs,
                    stats.num_waiting_reqs,
                    getattr(stats, "num_skipped_waiting_reqs", 0),
                    round(stats.kv_cache_usage, 6),
                    stats.prefix_cache_stats.queries,
                    stats.prefix_cache_stats.hits,
                ],
            ]
        )
        return results

    scheduler._preempt_request = noting_preempt
    scheduler.schedule = noting_schedule
    scheduler.update_from_output = noting_update

    records: list[list[Any]] = []
    step = 0
    arrivals = deque(enumerate(scenario["requests"]))
    aborts = deque(scenario["aborts"])
    while arrivals or scheduler.has_requests() or (is_async and engine.batch_queue):
        while arrivals and arrivals[0][1]["step"] <= step:
            position, request = arrivals.popleft()
            scheduler.add_request(
                Request(
                    request_id=str(position),
                    prompt_token_ids=token_ids(scenario, position),
                    sampling_params=SamplingParams(
                        max_tokens=request["max_tokens"], stop_token_ids=[END_OF_SEQUENCE], temperature=0.0
                    ),
                    pooling_params=None,
                    arrival_time=request["arrival_time"],
                    priority=request["priority"],
                    block_hasher=hasher,
                )
            )
        while aborts and aborts[0][0] <= step:
            engine.abort_requests([str(aborts.popleft()[1])])
        engine.step_with_batch_queue() if is_async else engine.step()
        if batches or outputs:
            records.append([step, batches.pop() if batches else None, outputs.pop() if outputs else None])
        step += 1
        if step > 20_000:
            raise RuntimeError(f"no end in sight: {scenario}")
    return records


def main() -> None:
    """Write a gzip file with a JSON document a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--per-kind", type=int, default=5)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    init_none_hash(sha256)
    version = vllm.__version__.partition("+")[0]
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as model_folder:
        Path(model_folder, "config.json").write_text(json.dumps(MODEL))
        for number in range(arguments.per_kind):
            for kind in arguments.kinds:
                scenario = make_scenario(kind, rng)
                scenario = {
                    "version": version,
                    "name": f"{kind}-{number}",
                    **scenario,
                    "steps": run(scenario, model_folder),
                }
                lines.append(json.dumps(scenario, separators=(",", ":")))
    with arguments.output.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as packed:
        packed.write("\n".join(lines).encode() + b"\n")


if __name__ == "__main__":
    main()
