import pytest

from advisor.calibration.overheads import CUDA_CONTEXT
from advisor.defaults import Device
from advisor.flags import parse_flags
from advisor.memory import budget
from advisor.model import parse_model
from advisor.plan import plan_engine
from advisor.restart import GpuAtRestart, restart_shortfall_bytes
from advisor.units import GIB
from tests.advisor.examples import LLAMA_8B

TOTAL = 79.5 * GIB


def gpu(*, free, held):
    return GpuAtRestart(total_bytes=TOTAL, free_bytes=free * GIB, held_bytes=held * GIB)


def shortfall(*gpus, version=(0, 32, 0), utilization=0.9, theory=None, pool_bytes=None):
    return restart_shortfall_bytes(
        gpus, version=version, gpu_memory_utilization=utilization, theory=theory, pool_bytes=pool_bytes
    )


def plan(command="vllm serve m", version=(0, 32, 0)):
    device = Device(name="NVIDIA H100 80GB HBM3", memory_bytes=int(TOTAL))
    return plan_engine(parse_model(LLAMA_8B), parse_flags(command.split()), version=version, device=device)


def test_what_the_servers_own_processes_hold_is_free_at_its_restart():
    assert shortfall(gpu(free=5, held=72)) == 0


def test_free_memory_below_the_budget_is_short_by_the_difference():
    missing = shortfall(gpu(free=1, held=65))
    assert missing == pytest.approx(0.9 * TOTAL - 66 * GIB + CUDA_CONTEXT.expected, abs=2)


def test_a_budget_is_rounded_up_to_a_byte():
    assert (budget(10.0, 0.55), budget(10.0, 0.5)) == (6.0, 5.0)


def test_the_gpu_with_the_least_decides():
    assert shortfall(gpu(free=5, held=72), gpu(free=1, held=65)) == shortfall(gpu(free=1, held=65))


def test_before_0_9_1_a_neighbour_takes_kv_and_not_the_start():
    theory = plan("vllm serve m --max-model-len 8192", (0, 8, 5))
    pool = theory.kv_bytes.expected
    assert shortfall(gpu(free=1, held=60), version=(0, 8, 5), theory=theory, pool_bytes=pool) == 0
    # Unless too little of it is left for one request of full length.
    left = shortfall(gpu(free=1, held=20), version=(0, 8, 5), theory=theory, pool_bytes=pool)
    missing = 0.9 * TOTAL - 21 * GIB + CUDA_CONTEXT.expected
    assert left == pytest.approx(theory.layout.bytes_needed() - (pool - missing), rel=1e-6)


def test_free_memory_is_checked_from_0_9_1_on():
    short = gpu(free=1, held=60)
    assert shortfall(short, version=(0, 9, 0)) is None  # without theory nothing else is checked
    assert shortfall(short, version=(0, 9, 1)) > 0


def test_a_pool_too_small_for_one_request_is_short_of_it():
    theory = plan()
    needed = theory.layout.bytes_needed()
    assert shortfall(gpu(free=5, held=72), theory=theory, pool_bytes=needed - GIB) == GIB
    assert shortfall(gpu(free=5, held=72), theory=theory, pool_bytes=needed) == 0


def test_without_gpus_nothing_is_said():
    assert shortfall() is None
