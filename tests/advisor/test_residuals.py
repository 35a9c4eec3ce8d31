from dataclasses import replace

import pytest

from advisor.advise import advise
from advisor.defaults import Device
from advisor.flags import parse_flags
from advisor.history import History, remember
from advisor.model import parse_model
from advisor.model_files import ModelFiles
from advisor.plan import plan_engine
from advisor.policy import Policy
from advisor.readings import CacheConfig
from advisor.residuals import MOST_FLAGS, MOST_PLACES, NO_RESIDUALS, flags_key, from_json, place_key, to_json
from advisor.snapshot import EngineTarget, Snapshot
from advisor.units import GIB, MIB
from tests.advisor import examples

SPEC = parse_model(examples.LLAMA_8B)
FLAGS = parse_flags(["vllm", "serve", "/models/m"])


def test_a_running_engine_teaches_by_how_much_theory_missed_and_the_next_plan_is_shifted():
    card = replace(examples.gpu(used=60 * GIB), name="NVIDIA H100 80GB HBM3", compute_capability="9.0")
    version = (0, 32, 0)
    total = card.memory_total_bytes - card.memory_reserved_bytes
    device = Device(name=card.name, memory_bytes=total, compute_capability=(9, 0))
    plan = plan_engine(SPEC, FLAGS, version=version, device=device)
    blocks = int(plan.num_gpu_blocks.expected) - 512
    engine = replace(examples.reading(), cache=CacheConfig(num_gpu_blocks=blocks, kv_cache_size_tokens=16 * blocks))
    snapshot = Snapshot(
        now_seconds=1.0,
        gpus=(card,),
        gpu_processes=(examples.gpu_process(100, 60 * GIB),),
        servers=(examples.server(),),
        engines=(engine,),
        targets=(EngineTarget(engine=engine.engine, url=engine.url, failing=None),),
        models=(ModelFiles(path="/models/m", spec=SPEC, declined=None, weights=None),),
    )
    history = remember(History(), snapshot, advise(snapshot, History(), Policy()))
    place = place_key(SPEC, version=version, gpu="h100 sxm", flags=FLAGS)
    shift = history.residuals.estimate(place, flags_key(FLAGS))
    assert shift.expected == pytest.approx(-512 * plan.layout.bytes_per_block, abs=plan.layout.bytes_per_block)
    again = plan_engine(SPEC, FLAGS, version=version, device=device, residual=shift)
    assert again.num_gpu_blocks.expected == pytest.approx(blocks, abs=1)
    assert again.kv_bytes.upper - again.kv_bytes.lower < plan.kv_bytes.upper - plan.kv_bytes.lower
    assert again.kv_bytes.upper - again.kv_bytes.lower == pytest.approx(shift.upper - shift.lower), "what was seen"


def test_other_flags_take_the_median_and_know_less():
    place = "somewhere"
    seen = NO_RESIDUALS
    for flags, missed in (("a", -1.0 * GIB), ("b", -2.0 * GIB), ("c", 0.5 * GIB)):
        seen = seen.learned(place, flags, missed)
    same, other = seen.estimate(place, "a"), seen.estimate(place, "z")
    assert (same.expected, other.expected) == (-1.0 * GIB, -1.0 * GIB)
    assert (other.lower, other.upper) == (-2.0 * GIB - 96 * MIB, 0.5 * GIB + 96 * MIB), "twice as uncertain"
    assert (same.lower, same.upper) == (-1.0 * GIB - 48 * MIB, -1.0 * GIB + 48 * MIB)


def test_what_was_never_seen_shifts_nothing():
    assert NO_RESIDUALS.estimate("here", "a") is None


def test_the_memory_is_bounded_and_read_back():
    seen = NO_RESIDUALS
    for place in range(MOST_PLACES + 10):
        for flags in range(MOST_FLAGS + 2):
            seen = seen.learned(f"place {place}", f"flags {flags}", 1.0)
    assert len(seen.by_place) == MOST_PLACES
    assert max(map(len, seen.by_place.values())) == MOST_FLAGS
    assert from_json(to_json(seen)) == seen


@pytest.mark.parametrize("content", [[], {"p": 3}, {"p": {"f": "many"}}, None])
def test_anything_else_is_no_memory_of_residuals(content):
    with pytest.raises(ValueError, match="not the residuals"):
        from_json(content)
