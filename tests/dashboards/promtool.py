"""Prometheus' own promtool: what it has to say of rules, and what rules make of series."""

import subprocess

import yaml


def promtool(*arguments, within):
    """Run it in a directory; who asks has the marker needs_promtool."""
    return subprocess.run(["promtool", *arguments], cwd=within, capture_output=True, text=True, check=False)


def run_unit_test(directory, test, *, rules=None):
    """Run one of promtool's unit tests, an evaluation a minute, over the content of a rule file or over none."""
    content = {"evaluation_interval": "1m", "tests": [test]}
    if rules is not None:
        (directory / "rules.yaml").write_text(yaml.safe_dump(rules))
        content["rule_files"] = ["rules.yaml"]
    (directory / "tests.yaml").write_text(yaml.safe_dump(content))
    return promtool("test", "rules", "tests.yaml", within=directory)


def assert_passes(result):
    assert result.returncode == 0, result.stdout + result.stderr
