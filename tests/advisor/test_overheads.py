import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.calibration import overheads
from advisor.cudagraphs import GraphCount
from advisor.runner import Runner
from advisor.units import GIB

VERSIONS = st.sampled_from([(0, 6, 3), (0, 8, 5), (0, 10, 2), (0, 12, 0), (0, 19, 0), (0, 33, 0)])


@given(
    version=VERSIONS,
    runner=st.sampled_from(list(Runner)),
    capability=st.sampled_from([7, 8, 9, 10, 12]),
    ranks=st.sampled_from([1, 2, 4, 8, 16, 32]),
    stages=st.sampled_from([1, 2, 4]),
    compiled=st.booleans(),
)
def test_every_combination_has_bounds_in_order(version, runner, capability, ranks, stages, compiled):
    outside = overheads.non_torch(
        version,
        runner,
        capability_major=capability,
        tensor_parallel_size=ranks,
        pipeline_parallel_size=stages,
        compiled=compiled,
    )
    assert 0 <= outside.lower <= outside.expected <= outside.upper


def non_torch(version, ranks):
    return overheads.non_torch(
        version,
        Runner.V1,
        capability_major=9,
        tensor_parallel_size=ranks,
        pipeline_parallel_size=1,
        compiled=True,
    )


@pytest.mark.parametrize(
    ("version", "ranks", "printed_gib"),
    [
        ((0, 11, 0), 1, 0.13),
        ((0, 11, 0), 2, 0.54),
        ((0, 15, 0), 1, 0.13),
        ((0, 19, 0), 1, 0.25),
        ((0, 19, 0), 1, 0.46),
        ((0, 19, 0), 2, 2.07),
        ((0, 19, 0), 4, 2.21),
    ],
)
def test_what_logs_of_an_h100_printed_lies_within_the_bounds(version, ranks, printed_gib):
    outside = non_torch(version, ranks)
    assert outside.lower / GIB <= printed_gib <= outside.upper / GIB


def graphs(layers, piecewise, full, *, mixture=False, ranks=1, capability=9):
    return overheads.cuda_graphs(
        num_layers=layers,
        mixture=mixture,
        captures=GraphCount(piecewise=piecewise, full=full, largest_piecewise=512, largest_full=256),
        tensor_parallel_size=ranks,
        capability_major=capability,
    )


@pytest.mark.parametrize(
    ("estimate", "printed_gib"),
    [
        (graphs(32, 51, 35), 0.84),
        (graphs(26, 51, 35), 0.52),
        (graphs(80, 51, 35), 1.82),
        (graphs(48, 51, 35, mixture=True), 1.24),
        (graphs(80, 51, 35, ranks=8), 0.91),
        (graphs(28, 51, 35, capability=8), 0.55),
        (graphs(48, 7, 5, mixture=True, capability=8), 0.15),
    ],
)
def test_vllms_own_estimate_of_its_graphs_lies_within_the_bounds(estimate, printed_gib):
    assert estimate.lower / GIB <= printed_gib <= estimate.upper / GIB


def test_without_captures_there_are_no_graphs():
    assert graphs(32, 0, 0).upper == 0
