import pytest

from advisor.cudagraphs import capture_sizes, cudagraph_mode, graph_count
from advisor.flags import parse_flags
from advisor.traits import ModelTraits
from advisor.versions import parse_version


def sizes(version, *, text="", **numbers):
    flags = parse_flags(["serve", "m", *text.split()])
    defaults = {"max_num_seqs": 256, "max_num_batched_tokens": 8192}
    return capture_sizes(parse_version(version), flags=flags, **(defaults | numbers))


def mode(version, *, text="", traits=None, is_v1=True, is_cpu=False, enforce_eager=False):
    return cudagraph_mode(
        parse_flags(["serve", "m", *text.split()]),
        version=parse_version(version),
        is_v1=is_v1,
        is_cpu=is_cpu,
        traits=traits or ModelTraits(),
        enforce_eager=enforce_eager,
    )


@pytest.mark.parametrize(
    ("version", "is_v1", "max_num_seqs", "count", "largest"),
    [
        ("0.7.3", False, 256, 35, 256),
        ("0.7.3", False, 100, 16, 104),
        ("0.8.5", True, 256, 67, 512),
        ("0.9.2", True, 16, 67, 512),
        ("0.10.2", True, 16, 7, 32),
        ("0.11.0", True, 1024, 67, 512),
        ("0.12.0", True, 1024, 51, 512),
        ("0.32.0", True, 1024, 51, 512),
    ],
)
def test_each_release_has_its_own_list(version, is_v1, max_num_seqs, count, largest):
    captured = sizes(version, max_num_seqs=max_num_seqs, is_v1=is_v1)
    assert (len(captured), captured[-1]) == (count, largest)


def test_a_real_log_line_is_reproduced():
    # "Profiling CUDA graph memory: PIECEWISE=51 (largest=512), FULL=51 (largest=512)" on large GPUs, else "FULL=35
    # (largest=256)": https://github.com/search?type=code&q=%22PIECEWISE%3D51+%28largest%3D512%29%22
    version = parse_version("0.19.0")
    for requests, full, largest in ((1024, 51, 512), (256, 35, 256)):
        captured = sizes("0.19.0", max_num_seqs=requests)
        count = graph_count(version, captured, "FULL_AND_PIECEWISE", max_num_seqs=requests)
        assert (count.piecewise, count.largest_piecewise) == (51, 512)
        assert (count.full, count.largest_full) == (full, largest)


def test_nothing_larger_than_a_step_is_captured():
    assert sizes("0.8.5", max_num_batched_tokens=100)[-1] == 96
    assert sizes("0.20.0", max_num_batched_tokens=100)[-1] == 96
    assert sizes("0.21.0", max_num_batched_tokens=100)[-1] == 100


def test_a_step_of_drafts_is_wider():
    assert sizes("0.12.0", max_num_seqs=16, num_speculative_tokens=3)[-1] == 32
    assert sizes("0.13.0", max_num_seqs=16, num_speculative_tokens=3)[-1] == 128
    # From 0.29 on there is a size for every number of requests with all its drafts.
    assert 12 in sizes("0.29.0", max_num_seqs=16, num_speculative_tokens=2)


def test_data_centre_blackwell_captures_larger_steps():
    assert sizes("0.27.0", max_num_seqs=1024, is_datacentre_blackwell=True)[-1] == 512
    assert sizes("0.29.0", max_num_seqs=1024, is_datacentre_blackwell=True)[-1] == 1024


def test_sizes_given_are_taken_as_far_as_they_fit_a_step():
    assert sizes("0.32.0", text="--cudagraph-capture-sizes 64 1 7 9000 7") == (1, 7, 64)
    assert sizes("0.32.0", text="--max-cudagraph-capture-size 20") == (1, 2, 4, 8, 16)
    assert sizes("0.10.2", text="--cuda-graph-sizes 24") == (1, 2, 4, 8, 16, 24)
    assert sizes("0.10.2", text="--cuda-graph-sizes 24 3") == (3, 24)
    nested = '--compilation-config {"cudagraph_capture_sizes":[4,2]}'
    assert sizes("0.8.5", text=nested) == (2, 4)


def test_interactive_mode_captures_every_small_size():
    assert sizes("0.17.0", text="--performance-mode interactivity")[:33] == (*range(1, 33), 40)


def test_whole_decode_steps_are_captured_beside_the_pieces_from_0_11():
    assert mode("0.10.2") == "PIECEWISE"
    assert mode("0.11.0") == "FULL_AND_PIECEWISE"
    assert mode("0.10.2", traits=ModelTraits(is_hybrid=True)) == "FULL_AND_PIECEWISE"
    assert mode("0.8.5", is_v1=False) == "FULL_DECODE_ONLY"


def test_nothing_is_captured_where_it_is_turned_off():
    assert mode("0.32.0", enforce_eager=True) == "NONE"
    assert mode("0.32.0", is_cpu=True) == "NONE"
    assert mode("0.32.0", text="-O0") == "NONE"
    assert mode("0.9.2", text="-O2") == "NONE"
    assert mode("0.32.0", text="--compilation-config.cudagraph_mode none") == "NONE"
    assert sizes("0.32.0", mode="NONE") == ()


def test_models_that_cannot_be_captured_whole_are_captured_in_pieces():
    assert mode("0.32.0", traits=ModelTraits(is_pooling=True)) == "PIECEWISE"
    assert mode("0.12.0", traits=ModelTraits(is_encoder_decoder=True)) == "PIECEWISE"
    assert mode("0.32.0", traits=ModelTraits(is_encoder_decoder=True)) == "FULL_DECODE_ONLY"
    assert mode("0.12.0", text="-dcp 2") == "PIECEWISE"


def test_adapters_double_the_graphs():
    captured = sizes("0.32.0")
    version = parse_version("0.32.0")
    plain = graph_count(version, captured, "FULL_AND_PIECEWISE", max_num_seqs=256)
    adapted = graph_count(version, captured, "FULL_AND_PIECEWISE", max_num_seqs=256, enable_lora=True)
    assert (adapted.piecewise, adapted.full) == (2 * plain.piecewise, 2 * plain.full)


def test_a_mode_without_whole_steps_has_none():
    count = graph_count(parse_version("0.32.0"), sizes("0.32.0"), "PIECEWISE", max_num_seqs=256)
    assert (count.piecewise, count.full, count.largest_full) == (51, 0, 0)
