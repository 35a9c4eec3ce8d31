"""DeepSeek V4 beyond what is recorded of a small one: the published model's size, its rope tables, what is declined."""

import pytest

from advisor.model import parse_model
from advisor.spec import DeclinedError, ModelConfigError
from advisor.units import GIB
from advisor.weights import stage_weights
from tests.advisor.examples import DEEPSEEK_V4_FLASH as FLASH


def test_flash_has_as_many_parameters_as_are_counted_of_its_files():
    assert round(parse_model(FLASH).num_parameters / 1e9, 2) == 284.33  # llama.cpp's loader prints this


def test_flash_takes_what_its_files_take_but_for_the_predictor_and_the_rope_tables():
    (held,) = stage_weights(
        parse_model(FLASH),
        dtype="bfloat16",
        tensor_parallel_size=1,
        pipeline_parallel_size=1,
        version=(0, 25, 0),
        load_draft_layers=True,
    )
    tables = 2 * 1_048_576 * 64 * 4
    assert (held.expected - tables) / GIB == pytest.approx(148.66, rel=0.005)  # the hub's sum of its files


def test_layers_that_compress_and_layers_that_do_not_have_a_rope_table_each():
    spec = parse_model(FLASH)
    always = parse_model({**FLASH, "compress_ratios": [4] * 43})
    never = parse_model({**FLASH, "compress_ratios": [0] * 43})
    scaled = parse_model({**FLASH, "rope_scaling": {**FLASH["rope_scaling"], "factor": 4}})

    assert [(each.positions, each.dims) for each in spec.rope_tables] == [(1_048_576, 64)] * 2
    assert len(always.rope_tables) == len(never.rope_tables) == 1
    assert [each.positions for each in scaled.rope_tables] == [4 * 65_536, 1_048_576]


def test_ratios_that_vllm_does_not_know_are_declined():
    with pytest.raises(DeclinedError, match="compress_ratio of 16"):
        parse_model({**FLASH, "compress_ratios": [16] * 43})


def test_a_model_that_sees_is_declined():
    with pytest.raises(DeclinedError, match="sees images"):
        parse_model({**FLASH, "vision_n_layers": 27})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"compress_ratios": None}, "compress_ratios is missing"),
        ({"compress_ratios": [4, 128]}, "compress_ratios has 2 entries for 43 layers"),
        ({"o_groups": 7}, "is not a multiple of o_groups 7"),
        ({"expert_dtype": 4}, "expert_dtype is 4; it must be a string"),
    ],
)
def test_what_cannot_be_right_is_named(changes, words):
    with pytest.raises(ModelConfigError, match=words):
        parse_model({**FLASH, **changes})
