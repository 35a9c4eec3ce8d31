"""The generated pages: current, and complete."""

from dataclasses import fields
from pathlib import Path

import pytest

from advisor.estimate import Origin
from advisor.policy import Policy
from exporter.config import Config
from exporter.reference import all_metrics, configuration_page, keys_of, metrics_page, policy_help
from exporter.web.config import WebConfig


@pytest.mark.parametrize(
    ("file", "page"), [("METRICS.md", metrics_page), ("docs/configuration.md", configuration_page)]
)
def test_the_page_in_the_repository_is_the_one_that_is_generated(file, page):
    assert Path(file).read_text(encoding="utf-8") == page()


WITHOUT_BOUNDS = {
    # Probabilities: docs/risk.md and docs/tuning.md say how often what was said came.
    *("headroom_gpu_oom_risk_ratio", "headroom_gpu_oom_risk_factor_ratio", "headroom_engine_preemption_risk_ratio"),
    "headroom_engine_advice_confidence_ratio",
    # Of an estimate that has bounds, at its expected value.
    *("headroom_engine_kv_capacity_gap_ratio", "headroom_engine_full_context_concurrency"),
    *("headroom_engine_recommendation_kv_gain_tokens", "headroom_engine_prompt_logprobs_bytes"),
    *("headroom_gpu_memory_component_bytes", "headroom_gpu_engine_claim_bytes"),
    *("headroom_gpu_memory_slack_bytes", "headroom_gpu_memory_slack_low_bytes"),
    *("headroom_engine_restart_fits", "headroom_engine_restart_shortfall_bytes"),
    # Rates of the last minutes, for how long, and what follows if they go on.
    *("headroom_gpu_memory_growth_bytes_per_second", "headroom_engine_queue_drain_seconds"),
    *("headroom_gpu_memory_growth_lasted_seconds", "headroom_engine_time_to_kv_exhaustion_seconds"),
}


def test_every_figure_says_where_it_comes_from_and_an_estimate_has_bounds_or_a_reason():
    numbers = {metric.name: metric for _, metric in all_metrics() if not metric.name.endswith("_info")}
    assert [name for name, metric in numbers.items() if not metric.origins] == []

    bare = {name for name, metric in numbers.items() if Origin.ESTIMATED in metric.origins}
    for name in list(bare):
        subject, _, unit = name.rpartition("_")
        pairs = ({f"{name}_lower", f"{name}_upper"}, {f"{subject}_lower_{unit}", f"{subject}_upper_{unit}"})
        if any(pair <= numbers.keys() for pair in pairs) or "_lower" in name or "_upper" in name:
            bare.discard(name)
    assert bare == WITHOUT_BOUNDS


@pytest.mark.parametrize("model", [Config, WebConfig])
def test_every_key_says_what_it_means(model):
    assert [key for key, field in keys_of(model) if not field.description] == []


def test_every_threshold_says_what_it_means():
    assert [field.name for field in fields(Policy) if not policy_help().get(field.name)] == []


def test_keys_of_a_list_and_of_a_section_are_spelled_as_in_a_problem():
    keys = [key for model in (Config, WebConfig) for key, _ in keys_of(model)]
    assert {"engines[].api_key_file", "tls_server_config.cert_file", "rate_limit.burst"} <= set(keys)
