"""The requests of a load test or a simulation."""

import random

import pytest

from advisor.readings import Histogram
from advisor.whatif import TracedRequest
from exporter.errors import UsageError
from exporter.traffic import like_observed, made_up, numbers, prompts, traced


def test_made_up_requests_have_one_size_and_the_rate_asked_for():
    trace = made_up(count=2000, rate=5.0, prompt_tokens=10, output_tokens=3, chance=random.Random(1))
    assert {(each.prompt_tokens, each.output_tokens) for each in trace} == {(10, 3)}
    assert trace[0].seconds == 0.0
    assert 2000 / trace[-1].seconds == pytest.approx(5.0, rel=0.1)


def booked(mean, count=100):
    return Histogram(bounds=(2 * mean, float("inf")), cumulative=(count, count), sum=mean * count, count=count)


def test_a_load_like_the_observed_one_has_its_lengths():
    trace = like_observed(booked(200), booked(40), count=500, rate=2.0, chance=random.Random(1))
    assert sum(each.prompt_tokens for each in trace) / 500 == pytest.approx(200, rel=0.01)
    assert sum(each.output_tokens for each in trace) / 500 == pytest.approx(40, rel=0.01)
    assert 500 / trace[-1].seconds == pytest.approx(2.0, rel=0.15)


def test_a_server_that_finished_nothing_has_no_load_to_be_like():
    for prompt, output in ((None, None), (booked(200), None), (booked(200), booked(40, count=0))):
        assert like_observed(prompt, output, count=5, rate=2.0, chance=random.Random(1)) is None


def sized(*lengths):
    return [TracedRequest(seconds=0.0, prompt_tokens=each, output_tokens=1) for each in lengths]


def test_prompts_have_the_lengths_asked_for_and_share_nothing():
    first, second = prompts(sized(40, 40), shared_prefix_tokens=0, chance=random.Random(1))
    assert (len(first), len(second)) == (40, 40)
    assert first[:16] != second[:16]


def test_prompts_begin_with_what_they_share():
    long, other, short = prompts(sized(40, 40, 5), shared_prefix_tokens=16, chance=random.Random(1))
    assert long[:16] == other[:16] and long[16:] != other[16:]
    assert short == long[:5]


def test_another_run_sends_other_prompts_unless_seeded():
    def one(seed):
        return next(prompts(sized(30), shared_prefix_tokens=0, chance=random.Random(seed)))

    assert one(1) == one(1) != one(2)


def test_a_list_of_numbers_keeps_its_order_and_each_once():
    assert numbers("16, 4,16,64", "--users", most=64) == (16, 4, 64)


@pytest.mark.parametrize("text", ["", "0", "1,,2", "-3", "1.5", "many", "65"])
def test_what_is_no_list_of_numbers_is_refused(text):
    with pytest.raises(UsageError, match=r"--users: .* is not a whole number from 1 to 64"):
        numbers(text, "--users", most=64)


def test_speed_and_rate_exclude_each_other(tmp_path):
    with pytest.raises(UsageError, match="give one"):
        traced(tmp_path / "x.csv", limit=None, lengths=1.0, speed=2.0, rate=1.0)


def test_a_factor_that_is_none_is_a_wrong_use(tmp_path):
    file = tmp_path / "x.csv"
    file.write_text("seconds,prompt,output\n1,1,1\n")
    with pytest.raises(UsageError, match="lengths must be a positive number"):
        traced(file, limit=None, lengths=-1.0, speed=None, rate=None)
