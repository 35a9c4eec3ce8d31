import pytest

from advisor.units import GIB
from bench.accuracy.predict import Declined
from bench.accuracy.rows import Doubt
from bench.accuracy.score import (
    population,
    quantile,
    summary,
    targets,
    verdict_score,
)
from tests.bench.examples import deployment, prediction, scored


def test_the_kv_error_is_a_share_of_the_budget_and_of_the_kv_cache():
    row = scored(deployment(kv_gib=8.0), prediction(kv=10.0, budget=20.0))
    assert row.kv_error_share_of_budget == pytest.approx(0.1)
    assert row.kv_error_ratio == pytest.approx(0.25)


def test_a_kv_cache_below_a_tenth_of_the_budget_has_no_relative_error():
    row = scored(deployment(kv_gib=1.9), prediction(kv=2.0, budget=20.0))
    assert row.kv_error_ratio is None
    assert row.kv_error_share_of_budget == pytest.approx(0.005)


def test_tokens_alone_are_converted_by_the_estimates_own_bytes_per_token():
    row = scored(deployment(kv_tokens=900), prediction(kv=10.0, tokens=1000))
    assert row.kv_reported_bytes == pytest.approx(9 * GIB)
    assert row.kv_from_tokens


def test_blocks_alone_count_sixteen_tokens_unless_the_block_size_is_given():
    assert scored(deployment(kv_blocks=50), prediction(tokens=1600)).kv_reported_bytes == pytest.approx(5 * GIB)
    given = deployment(kv_blocks=50, args=("--block-size", "32"))
    assert scored(given, prediction(tokens=1600)).kv_reported_bytes == pytest.approx(10 * GIB)


def test_tokens_alone_of_a_hybrid_judge_no_kv_cache():
    row = scored(deployment(kv_tokens=900), prediction(), {"architectures": ["Gemma3ForCausalLM"]})
    assert not row.judges("kv")


def test_bounds_hold_up_to_half_the_last_printed_digit():
    assert scored(deployment(kv_gib=10.504), prediction(kv=10.0, spread=0.5)).kv_within_bounds
    assert not scored(deployment(kv_gib=10.51), prediction(kv=10.0, spread=0.5)).kv_within_bounds


def test_the_width_of_the_bounds_is_a_share_of_the_reported_kv_cache():
    assert scored(deployment(kv_gib=5.0), prediction(spread=0.5)).kv_bounds_width_ratio == pytest.approx(0.2)


def test_the_weights_error_is_relative_to_the_report():
    assert scored(deployment(weights_gib=4.0), prediction(weights=5.0)).weights_error_ratio == pytest.approx(0.25)


def test_with_the_weights_known_only_the_other_parts_err():
    row = scored(deployment(kv_gib=10.9, weights_gib=4.0), prediction(kv=10.0, weights=5.0, budget=20.0))
    assert row.kv_error_with_reported_weights == pytest.approx((10.0 - 10.9 + 1.0) / 20.0)


@pytest.mark.parametrize(
    ("said", "started", "expected"),
    [
        ("fits", True, "right"),
        ("does_not_fit", False, "right"),
        ("fits", False, "wrong"),
        ("does_not_fit", True, "wrong"),
        ("too_close_to_call", True, "too close"),
        ("too_close_to_call", False, "too close"),
    ],
)
def test_a_verdict_is_right_wrong_or_too_close(said, started, expected):
    assert verdict_score(said, started=started) == expected


def test_a_doubt_takes_the_row_out_whatever_its_error():
    row = scored(deployment(kv_gib=10.0, doubts=(Doubt(of="gpu", why="not named"),)), prediction(kv=10.0))
    assert not row.judges("kv")
    assert row.left_out["kv"] == ("gpu: not named",)


def test_a_doubtful_gpu_says_nothing_against_the_weights():
    row = scored(deployment(weights_gib=5.0, doubts=(Doubt(of="gpu", why="not named"),)), prediction())
    assert row.judges("weights")


def test_an_unknown_release_judges_the_verdict_and_not_the_kv_cache():
    row = scored(deployment(kv_gib=5.0, started=True, doubts=(Doubt(of="version", why="not printed"),)), prediction())
    assert row.judges("verdict")
    assert not row.judges("kv")


def test_a_huge_error_takes_no_row_out():
    assert scored(deployment(kv_gib=1.0), prediction(kv=15.0)).judges("kv")


def test_a_log_without_a_kv_cache_judges_none():
    assert not scored(deployment(weights_gib=5.0), prediction()).judges("kv")
    assert not scored(deployment(kv_gib=-1.0), prediction()).judges("kv")


def test_a_declined_row_is_asked_and_not_answered():
    rows = (
        scored(deployment(kv_gib=10.0, weights_gib=5.0, started=True), Declined(reason="unknown kind")),
        scored(deployment(kv_gib=10.0, weights_gib=5.0, started=True), prediction()),
    )
    result = summary(rows)
    assert (result.kv_rows, result.kv_answered) == (2, 1)
    assert (result.weights_rows, result.weights_answered) == (2, 1)
    assert (result.verdict_rows, result.verdict_right) == (2, 1)


def test_the_median_of_an_even_count_is_the_mean_of_the_middle_two():
    def middle(*errors_gib):
        rows = [scored(deployment(kv_gib=8.0), prediction(kv=8.0 + error, budget=20.0)) for error in errors_gib]
        return summary(rows).kv_share_median

    assert middle(4.0, 1.0, 3.0, 2.0) == pytest.approx(2.5 / 20)
    assert middle(3.0, 1.0, 2.0) == pytest.approx(2.0 / 20)


def test_a_percentile_is_an_observed_value():
    assert quantile([float(value) for value in range(1, 11)], 0.9) == 9.0
    assert quantile([1.0, 2.0, 3.0], 0.9) == 3.0
    assert quantile([7.0], 0.5) == 7.0


def test_one_confident_wrong_verdict_misses_its_target():
    rows = [scored(deployment(kv_gib=10.0, started=True), prediction()) for _ in range(99)]
    judged = {target.name: target.met for target in targets(summary(rows))}
    assert judged["fit verdicts right"]
    assert judged["fit verdicts confident and wrong"]
    rows.append(scored(deployment(kv_gib=10.0, started=False), prediction()))
    judged = {target.name: target.met for target in targets(summary(rows))}
    assert judged["fit verdicts right"]
    assert not judged["fit verdicts confident and wrong"]


def test_no_rows_meet_no_target():
    assert {target.met for target in targets(summary([]))} == {None}


def test_rows_with_a_default_utilization_are_counted_apart():
    rows = (scored(deployment(kv_gib=1.0), prediction()), scored(deployment(kv_gib=1.0, stated=False), prediction()))
    assert len(population(rows, utilization_stated=True)) == 1
    assert len(population(rows, utilization_stated=False)) == 1
