"""The articles' formulas reproduce the articles' own figures."""

import pytest

from advisor.units import GIB
from bench.accuracy.peers import Case, article_000, article_001, article_003, single_gqa_formula, weights_times_1_2


def case(**changed):
    values = {
        "parameters": 32e9,
        "weight_bytes_per_parameter": 2.0,
        "total_bytes": 24e9,
        "gpu_memory_utilization": 0.75,
        "gpus": 8,
        "layers": 64,
        "hidden_size": 5120,
        "heads": 64,
        "kv_heads": 8,
        "head_dim": 128,
        "kv_element_bytes": 2.0,
        "max_model_len": 8192,
    }
    return Case(**{**values, **changed})


def test_article_000_gives_40_gb_for_kv_and_262144_bytes_a_token():
    answer = article_000(case())
    assert answer.kv_bytes * 8 == pytest.approx(40e9)
    assert answer.bytes_per_token == 262_144
    # The article divides 40 GiB where it had subtracted GB; by its own GB it is 7% less than its 163,840.
    assert 40 * GIB / answer.bytes_per_token == 163_840
    assert answer.tokens(8) == pytest.approx(40e9 / 262_144)


def test_article_001_refuses_32b_in_16_bits_on_four_cards_of_24_gb_and_takes_72b_in_4():
    plain = case(gpus=4, max_model_len=8 * 8192)
    assert plain.weights_bytes / 4 + 8 * 8192 * 0.0001e9 + 3e9 == pytest.approx(25.55e9, rel=1e-3)
    assert not article_001(plain).fits(plain)
    four_bits = case(parameters=72e9, weight_bytes_per_parameter=0.5, gpus=4, max_model_len=8 * 8192)
    assert article_001(four_bits).fits(four_bits)


def test_article_003_counts_every_head_for_12000_tokens():
    answer = article_003(case(layers=48, heads=32, head_dim=128, max_model_len=12_000))
    assert answer.bytes_per_token * 12_000 == 9_437_184_000


def test_the_single_formula_reserves_nothing_beside_the_weights():
    answer = single_gqa_formula(case())
    assert answer.kv_bytes == pytest.approx(18e9 - 8e9)


def test_a_fifth_of_the_weights_says_nothing_of_tokens():
    answer = weights_times_1_2(case())
    assert answer.kv_bytes == pytest.approx(18e9 - 1.2 * 8e9)
    assert answer.fits(case()) is None
