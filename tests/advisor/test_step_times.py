"""Step times from what an engine's metrics say."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.simulate import StepTimeModel
from advisor.step_times import LEAST_STRETCHES, Stretch, fit_step_times


def stretches(model, *, count=40, noise=0.0, seed=1):
    chance = random.Random(seed)
    found = []
    for _ in range(count):
        steps, running = chance.randint(5, 40), chance.randint(1, 60)
        prefill, context = chance.randint(0, 4000), running * chance.randint(100, 900) * steps
        seconds = (
            model.base_seconds * steps
            + model.per_prefill_token_seconds * prefill
            + model.per_decode_request_seconds * running * steps
            + model.per_context_token_seconds * context
        )
        found.append(
            Stretch(
                seconds=seconds * (1 + chance.uniform(-noise, noise)),
                steps=steps,
                prefill_tokens=prefill,
                decode_tokens=running * steps,
                context_tokens=context,
            )
        )
    return found


TRUE = StepTimeModel(
    base_seconds=0.02,
    per_prefill_token_seconds=1e-4,
    per_decode_request_seconds=5e-4,
    per_context_token_seconds=1e-6,
)


def test_exact_stretches_give_back_the_model():
    fit = fit_step_times(stretches(TRUE))
    assert fit.model.base_seconds == pytest.approx(TRUE.base_seconds)
    assert fit.model.per_prefill_token_seconds == pytest.approx(TRUE.per_prefill_token_seconds)
    assert fit.model.per_decode_request_seconds == pytest.approx(TRUE.per_decode_request_seconds)
    assert fit.model.per_context_token_seconds == pytest.approx(TRUE.per_context_token_seconds)
    assert fit.error_ratio == pytest.approx(0, abs=1e-6)


def test_noise_costs_as_much_as_there_is():
    fit = fit_step_times(stretches(TRUE, count=400, noise=0.2))
    assert fit.model.per_prefill_token_seconds == pytest.approx(TRUE.per_prefill_token_seconds, rel=0.1)
    assert 0.05 < fit.error_ratio < 0.15


def test_what_never_happened_costs_nothing():
    only_decode = [
        Stretch(seconds=0.03 * steps, steps=steps, prefill_tokens=0, decode_tokens=0, context_tokens=0)
        for steps in range(1, 20)
    ]
    fit = fit_step_times(only_decode)
    assert fit.model == StepTimeModel(base_seconds=pytest.approx(0.03))


def test_too_little_is_not_fitted():
    assert fit_step_times(stretches(TRUE, count=LEAST_STRETCHES - 1)) is None
    idle = [Stretch(seconds=1, steps=0, prefill_tokens=0, decode_tokens=0, context_tokens=0)] * 50
    assert fit_step_times(idle) is None


@given(
    st.lists(
        st.builds(
            Stretch,
            seconds=st.floats(0.1, 10),
            steps=st.integers(1, 100),
            prefill_tokens=st.integers(0, 10_000),
            decode_tokens=st.integers(0, 10_000),
            context_tokens=st.integers(0, 10**7),
        ),
        min_size=LEAST_STRETCHES,
        max_size=30,
    )
)
def test_no_part_is_negative_and_the_total_is_the_observed_one(seen):
    fit = fit_step_times(seen)
    parts = fit.model
    assert min(parts.base_seconds, parts.per_prefill_token_seconds) >= 0
    assert min(parts.per_decode_request_seconds, parts.per_context_token_seconds) >= 0
    told = sum(
        parts.base_seconds * each.steps
        + parts.per_prefill_token_seconds * each.prefill_tokens
        + parts.per_decode_request_seconds * each.decode_tokens
        + parts.per_context_token_seconds * each.context_tokens
        for each in seen
    )
    assert told == pytest.approx(sum(each.seconds for each in seen))
