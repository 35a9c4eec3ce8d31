"""The generated pages: current, and complete."""

from dataclasses import fields
from pathlib import Path

import pytest

from advisor.policy import Policy
from exporter.config import Config
from exporter.reference import configuration_page, keys_of, metrics_page, policy_help
from exporter.web.config import WebConfig


@pytest.mark.parametrize(
    ("file", "page"), [("METRICS.md", metrics_page), ("docs/configuration.md", configuration_page)]
)
def test_the_page_in_the_repository_is_the_one_that_is_generated(file, page):
    assert Path(file).read_text(encoding="utf-8") == page()


@pytest.mark.parametrize("model", [Config, WebConfig])
def test_every_key_says_what_it_means(model):
    assert [key for key, field in keys_of(model) if not field.description] == []


def test_every_threshold_says_what_it_means():
    assert [field.name for field in fields(Policy) if not policy_help().get(field.name)] == []


def test_keys_of_a_list_and_of_a_section_are_spelled_as_in_a_problem():
    keys = [key for model in (Config, WebConfig) for key, _ in keys_of(model)]
    assert {"engines[].api_key_file", "tls_server_config.cert_file", "rate_limit.burst"} <= set(keys)
