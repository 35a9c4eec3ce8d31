from dataclasses import replace

import pytest

from advisor.defaults import Device
from advisor.flag_advice import GONE, Room, advise_flags
from advisor.flags import EngineFlags, parse_flags
from advisor.load import Lengths
from advisor.model import parse_model
from advisor.plan import plan_engine
from advisor.policy import Policy
from advisor.tuning import Surroundings, recommend_seqs
from advisor.units import GIB
from tests.advisor.examples import LLAMA_8B
from tests.advisor.loads import told

DEVICE = Device(name="NVIDIA H100 80GB HBM3", memory_bytes=int(79.5 * GIB))
ROOM = Room(total_bytes=79.5 * GIB, slack_bytes=1 * GIB, oom_risk_ratio=0.0, idle_gpus=0)


def flags_of(
    command="vllm serve m", *, load=None, room=ROOM, version=(0, 32, 0), device=DEVICE, current=64, tokens=12_288
):
    """Return the advice on each flag by its name."""
    given = parse_flags(command.split())

    def planned(**changes):
        try:
            return plan_engine(parse_model(LLAMA_8B), replace(given, **changes), version=version, device=device)
        except ValueError:
            return None

    load = load or told()
    around = Surroundings(current=current, capacity_tokens=lambda _number: 12_288, block_size=16, max_model_len=2048)
    found = advise_flags(
        planned(),
        planned,
        given=given,
        version=version,
        load=load,
        seqs=recommend_seqs(load, around, Policy()),
        room=room,
        capacity_tokens=tokens,
    )
    return {each.flag: each for each in found}


def test_flags_that_hold_nobody_up_stay_as_they_are():
    calm = told(demand=5, running=3.0, preempted=0.0)
    advice = flags_of(load=calm, tokens=400_000)
    assert {flag: each.is_change for flag, each in advice.items()} == {
        "gpu-memory-utilization": False,
        "max-model-len": False,
        "max-num-batched-tokens": False,
        "kv-cache-dtype": False,
        "tensor-parallel-size": False,
    }


@pytest.mark.parametrize(("tokens", "recommended", "binding"), [(8_192, "8192", "demand"), (8_191, "8191", "kv")])
def test_a_request_of_full_length_must_fit_the_cache(tokens, recommended, binding):
    advice = flags_of(tokens=tokens)["max-model-len"]
    assert (advice.recommended, advice.binding) == (recommended, binding)


@pytest.mark.parametrize(("prompt", "is_told"), [(1_800.0, True), (1_900.0, False)])
def test_what_a_smaller_length_would_do_is_told_where_requests_take_less_than_half_of_it(prompt, is_told):
    """Buckets end at twice the mean: 999 of 1,000 have at most 3,600 or 3,800 and 300 tokens, of 8,192."""
    why = flags_of(load=told(prompt=prompt), tokens=400_000)["max-model-len"].why
    assert ("a smaller value would only refuse longer ones" in why) is is_told


@pytest.mark.parametrize(("share", "is_change"), [(0.19, False), (0.2, True)])
def test_a_larger_step_is_advised_where_a_fifth_of_the_time_requests_waited_for_its_budget(share, is_change):
    calm = told(demand=5, running=3.0, preempted=0.0)
    waited = replace(calm, slow=replace(calm.slow, budget_seconds=share * calm.slow.busy_seconds))
    advice = flags_of("vllm serve m --max-num-batched-tokens 2048", load=waited, tokens=400_000)
    assert advice["max-num-batched-tokens"].is_change is is_change


def test_slack_that_is_nobodys_goes_to_kv_where_requests_wait_for_it():
    free = replace(ROOM, slack_bytes=12 * GIB)
    advice = flags_of("vllm serve m --gpu-memory-utilization 0.8", room=free)["gpu-memory-utilization"]
    assert (advice.current, advice.recommended, advice.binding) == ("0.8", "0.93", "slack")
    # 0.13 of 79.5 GiB, at 128 KiB a token.
    assert advice.kv_gain_tokens == pytest.approx(0.13 * 79.5 * 8192, rel=0.01)


def test_where_the_number_of_blocks_is_set_by_hand_no_flag_is_said_to_bring_more_of_them():
    free = replace(ROOM, slack_bytes=12 * GIB)
    advice = flags_of("vllm serve m --gpu-memory-utilization 0.8 --num-gpu-blocks-override 768", room=free)
    for flag in ("gpu-memory-utilization", "kv-cache-dtype"):
        assert not advice[flag].is_change
        assert "--num-gpu-blocks-override" in advice[flag].why


def test_no_slack_or_a_gpu_at_risk_raises_nothing():
    for room in (ROOM, replace(ROOM, slack_bytes=12 * GIB, oom_risk_ratio=0.4)):
        advice = flags_of("vllm serve m --gpu-memory-utilization 0.8", room=room)["gpu-memory-utilization"]
        assert (advice.is_change, advice.binding) == (False, "slack")


def test_slack_that_is_left_alone_is_not_said_to_be_missing():
    free = replace(ROOM, slack_bytes=12 * GIB)
    at_risk = flags_of(room=replace(free, oom_risk_ratio=0.3))["gpu-memory-utilization"]
    highest = flags_of("vllm serve m --gpu-memory-utilization 0.95", room=free)["gpu-memory-utilization"]
    assert at_risk.why == "this GPU may run out of memory (30%): what is free stays free"
    assert highest.why == "above 0.95 nothing is left for what allocates beside the budget"
    assert flags_of(room=ROOM)["gpu-memory-utilization"].why == "no slack on the GPU to grow into (1.00 GiB)"


def test_engines_that_may_claim_more_than_is_free_get_less():
    over = replace(ROOM, slack_bytes=-8 * GIB)
    advice = flags_of("vllm serve m --gpu-memory-utilization 0.9", room=over)["gpu-memory-utilization"]
    assert (advice.recommended, advice.binding) == ("0.77", "over_commitment")
    assert advice.kv_gain_tokens < 0


def test_a_pool_given_in_bytes_is_not_the_utilizations_to_change():
    advice = flags_of("vllm serve m --kv-cache-memory-bytes 8000000000")["gpu-memory-utilization"]
    assert not advice.is_change


def test_blocks_that_are_fixed_by_a_flag_are_the_wall_and_nothing_else_brings_kv():
    free = replace(ROOM, slack_bytes=12 * GIB, idle_gpus=1)
    advice = flags_of("vllm serve m --gpu-memory-utilization 0.8 --num-gpu-blocks-override 768", room=free)
    override = advice.pop("num-gpu-blocks-override")
    assert (override.current, override.recommended, override.binding) == ("768", "remove", "kv")
    assert override.kv_gain_tokens > 100_000
    assert [flag for flag, each in advice.items() if each.is_change] == []
    more_than_fits = flags_of("vllm serve m --num-gpu-blocks-override 900000", room=free)["num-gpu-blocks-override"]
    assert (more_than_fits.is_change, more_than_fits.binding) == (False, "slack")
    calm = told(demand=5, running=3.0, preempted=0.0)
    enough = flags_of("vllm serve m --num-gpu-blocks-override 768", load=calm)["num-gpu-blocks-override"]
    assert (enough.is_change, enough.binding) == (False, "demand")


L4 = Device(name="NVIDIA L4", memory_bytes=22 * GIB)
ROOM_OF_L4 = Room(total_bytes=22 * GIB, slack_bytes=2 * GIB, oom_risk_ratio=0.0, idle_gpus=0)


def test_utilization_goes_up_no_further_than_the_server_surely_starts():
    advice = flags_of("vllm serve m --gpu-memory-utilization 0.9", device=L4, room=ROOM_OF_L4)["gpu-memory-utilization"]
    assert (advice.current, advice.recommended) == ("0.9", "0.94")  # 0.95 is too close to call
    advice = flags_of("vllm serve m --gpu-memory-utilization 0.94", device=L4, room=ROOM_OF_L4)[
        "gpu-memory-utilization"
    ]
    assert (advice.is_change, advice.why) == (False, "vLLM would not surely start with more")


def test_blocks_stay_fixed_where_the_server_might_not_start_without():
    command = "vllm serve m --num-gpu-blocks-override 768 --gpu-memory-utilization 0.95"
    advice = flags_of(command, device=L4, room=ROOM_OF_L4)["num-gpu-blocks-override"]
    assert (advice.is_change, advice.why) == (False, "vLLM would not surely start without it")


def test_a_larger_step_is_not_advised_where_the_server_might_not_start_with_it():
    slow = told(demand=14, preempted=0.0)
    slow = replace(slow, slow=replace(slow.slow, budget_seconds=0.3 * slow.slow.busy_seconds))
    command = "vllm serve m --max-num-batched-tokens 2048 --gpu-memory-utilization 0.97"
    advice = flags_of(command, load=slow, tokens=400_000, device=L4, room=ROOM_OF_L4)["max-num-batched-tokens"]
    assert (advice.is_change, advice.why) == (False, "vLLM would not surely start with 4096")


def test_ways_to_more_kv_are_told_from_what_stands_by_itself():
    free = replace(ROOM, slack_bytes=12 * GIB, idle_gpus=1)
    command = "vllm serve m --gpu-memory-utilization 0.8 --swap-space 4"
    advice = flags_of(command, room=free, tokens=4_000, version=(0, 17, 0))
    assert {flag for flag, each in advice.items() if each.is_way_to_more_kv} == {
        "gpu-memory-utilization",
        "kv-cache-dtype",
        "tensor-parallel-size",
    }
    assert {flag for flag, each in advice.items() if each.is_change and not each.is_way_to_more_kv} == {
        "max-model-len",
        "swap-space",
    }
    over = flags_of(room=replace(ROOM, slack_bytes=-8 * GIB))["gpu-memory-utilization"]
    assert not over.is_way_to_more_kv


def test_a_context_that_can_never_fit_is_cut_to_what_does():
    advice = flags_of(tokens=4_000)["max-model-len"]
    assert (advice.current, advice.recommended, advice.binding) == ("8192", "4000", "kv")


def test_lengths_that_nobody_saw_are_not_made_up():
    unseen = replace(told(), prompt_tokens=Lengths(), generation_tokens=Lengths())
    assert "at most" in flags_of(tokens=400_000)["max-model-len"].why
    for tokens in (4_000, 400_000):
        advice = flags_of(load=unseen, tokens=tokens)["max-model-len"]
        assert "how long requests are was not seen" in advice.why


def test_a_budget_that_holds_prompts_up_is_doubled_with_its_cost():
    slow = told(demand=14, preempted=0.0)
    slow = replace(slow, slow=replace(slow.slow, budget_seconds=0.3 * slow.slow.busy_seconds))
    command = "vllm serve m --max-num-batched-tokens 2048"
    advice = flags_of(command, load=slow, tokens=400_000)["max-num-batched-tokens"]
    assert (advice.recommended, advice.binding) == ("4096", "token_budget")
    assert advice.kv_gain_tokens < 0
    short = replace(told(), slow=slow.slow)
    assert not flags_of(command, load=short, tokens=400_000)["max-num-batched-tokens"].is_change


def test_fp8_is_advised_where_kv_is_short_and_the_gpu_has_it():
    advice = flags_of()["kv-cache-dtype"]
    assert (advice.recommended, advice.binding) == ("fp8", "kv")
    assert advice.kv_gain_tokens == pytest.approx(400_000, rel=0.2)
    ampere = Device(name="NVIDIA A100-SXM4-80GB", memory_bytes=int(79.5 * GIB))
    assert not flags_of(device=ampere)["kv-cache-dtype"].is_change


@pytest.mark.parametrize("dtype", ["nvfp4", "int4_per_token_head", "int8_per_token_head", "turboquant_k8v4"])
def test_fp8_is_not_advised_where_the_cache_is_as_small_already(dtype):
    advice = flags_of(f"vllm serve m --kv-cache-dtype {dtype}")["kv-cache-dtype"]
    assert (advice.is_change, advice.recommended, advice.binding) == (False, dtype, "kv")
    assert "as small as fp8 would make it" in advice.why


def test_idle_gpus_take_more_ranks_where_kv_is_short():
    assert flags_of(room=replace(ROOM, idle_gpus=1))["tensor-parallel-size"].recommended == "2"
    assert not flags_of(room=replace(ROOM, idle_gpus=0))["tensor-parallel-size"].is_change


def test_idle_gpus_that_are_of_no_use_are_not_named_as_why_nothing_changes():
    few = flags_of(room=replace(ROOM, idle_gpus=0))["tensor-parallel-size"]
    odd = flags_of("vllm serve m --tensor-parallel-size 32", room=replace(ROOM, idle_gpus=32))["tensor-parallel-size"]
    assert few.why == "0 GPUs here are idle"
    assert (odd.is_change, odd.why) == (False, "vLLM would not surely start on twice as many GPUs")


def before(version):
    return version[0], version[1] - 1, 99


@pytest.mark.parametrize("gone", GONE, ids=lambda each: each.flag)
def test_a_flag_that_the_release_no_longer_has_is_named(gone):
    name = gone.flag.replace("_", "-")
    command = f"vllm serve m --{name}" + (" 4" if gone.flag != "use_v2_block_manager" else "")
    advice = flags_of(command, version=gone.gone_since)[name]
    assert (advice.recommended, advice.binding) == ("remove", "gone")
    assert advice.why.startswith("this release has no such flag")
    assert name not in flags_of(command, version=before(gone.idle_since))
    assert name not in flags_of(version=gone.gone_since)


@pytest.mark.parametrize(
    "gone", [each for each in GONE if each.idle_since < each.gone_since], ids=lambda each: each.flag
)
def test_a_flag_that_is_taken_and_does_nothing_is_named_as_such(gone):
    name = gone.flag.replace("_", "-")
    command = f"vllm serve m --{name}" + (" 4" if gone.flag != "use_v2_block_manager" else "")
    for version in (gone.idle_since, before(gone.gone_since)):
        assert flags_of(command, version=version)[name].why.startswith("it does nothing in this release")


def test_every_flag_that_is_gone_is_one_that_the_command_line_is_read_for():
    assert {each.flag for each in GONE} <= set(EngineFlags.__dataclass_fields__)


def test_on_the_cpu_nothing_is_said_of_gpus():
    advice = flags_of("VLLM_CPU_KVCACHE_SPACE=4 vllm serve m", device=Device(name="cpu", memory_bytes=0), room=None)
    assert set(advice) == {"max-model-len", "max-num-batched-tokens"}
