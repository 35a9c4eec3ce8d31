"""Every alert through promtool: it fires, it waits, it stays quiet, it ends, it survives restarts."""

import re
import shutil
import subprocess
from urllib.parse import quote

import pytest
import yaml

from advisor.policy import Policy
from dashboards.files import GENERATED
from dashboards.rules.catalogue import all_alerts
from dashboards.rules.prometheus import Places, alert_groups, annotations
from tests.dashboards.rules.examples import ENGINE, EXAMPLES, GPU, IDLE, TARGET, constant, gpu

ALERTS = all_alerts(Policy())
NAMES = sorted({alert.name for alert in ALERTS})

pytestmark = pytest.mark.needs_promtool


@pytest.fixture(scope="module")
def promtool(tmp_path_factory):
    """Run unit tests over the alerts; without their words unless these are asked for."""
    if not shutil.which("promtool"):
        pytest.skip("needs promtool (Debian package prometheus)")
    directory = tmp_path_factory.mktemp("promtool")

    def run(tests, *, alerts=ALERTS, words=False):
        content = alert_groups(alerts, Places())
        for rule in (rule for group in content["groups"] for rule in group["rules"] if not words):
            del rule["annotations"]
        (directory / "rules.yaml").write_text(yaml.safe_dump(content))
        (directory / "tests.yaml").write_text(
            yaml.safe_dump({"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": tests})
        )
        command = ["promtool", "test", "rules", "tests.yaml"]
        return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)

    return run


def both(name):
    """Return an alert at all its severities."""
    return [alert for alert in ALERTS if alert.name == name]


def unit_test(series, *expectations):
    """Return promtool's form of series and of (time, alert name, labels of each alert that fires then)."""
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [
            {"eval_time": at, "alertname": name, "exp_alerts": [{"exp_labels": labels} for labels in firing]}
            for at, name, firing in expectations
        ],
    }


def labels_of(example, severity):
    return {**example.subject, **example.extra, "severity": severity}


def cases():
    return [pytest.param(example, id=f"{example.alert}-{example.severity}") for example in EXAMPLES]


def assert_passes(result):
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_alert_has_an_example_at_each_severity():
    assert {(each.alert, each.severity) for each in EXAMPLES} == {(each.name, str(each.severity)) for each in ALERTS}


@pytest.mark.parametrize("example", cases())
def test_it_fires_and_only_after_the_time_it_must_last(promtool, example):
    firing = [labels_of(example, severity) for severity in (example.severity, *example.also)]
    assert_passes(
        promtool(
            [unit_test(example.bad, (example.not_before, example.alert, []), (example.at, example.alert, firing))],
            alerts=both(example.alert),
        )
    )


@pytest.mark.parametrize("example", cases())
def test_it_stays_quiet_at_what_is_no_trouble(promtool, example):
    milder = [labels_of(example, severity) for severity in example.still]
    assert_passes(
        promtool(
            [unit_test(example.good, *((at, example.alert, milder) for at in ("30m", "60m", "90m")))],
            alerts=both(example.alert),
        )
    )


@pytest.mark.parametrize("example", [each for each in cases() if each.values[0].ends])
def test_it_ends_when_its_series_do(promtool, example):
    """A source that fails takes its series away: that is an alert of its own, not one that never ends."""
    minutes = int(example.at.removesuffix("m"))
    vanishing = {
        name: values if values.endswith("stale") else re.sub(r"x\d+$", f"x{minutes}", values) + " stale"
        for name, values in example.bad.items()
    }
    assert_passes(promtool([unit_test(vanishing, (f"{minutes + 60}m", example.alert, []))], alerts=both(example.alert)))


def test_memory_that_ended_lets_no_warning_of_the_risk_out_afterwards(promtool):
    """The critical alert holds the warning back, and must do so for as long as that is kept firing."""
    growing = {
        gpu("time_to_oom_seconds"): f"{constant(600, 20)} {constant('Inf', 60)}",
        gpu("memory_growth_bytes_per_second"): f"{constant(1e6, 20)} {constant(0, 60)}",
        gpu("oom_risk_ratio"): f"{constant(0.5, 20)} {constant(0, 60)}",
    }
    ends, risk = (
        (name, [GPU | {"severity": severity}])
        for name, severity in (("HeadroomGpuMemoryEnds", "critical"), ("HeadroomGpuOomRisk", "warning"))
    )
    alerts = [each for each in ALERTS if (each.name, each.severity) in {(ends[0], "critical"), (risk[0], "warning")}]
    expected = [(at, name, firing) for at in ("19m", "25m", "30m") for name, firing in (ends, risk)]
    expected += [("33m", name, []) for name, _ in (ends, risk)]
    assert_passes(promtool([unit_test(growing, *expected)], alerts=alerts))


def test_an_idle_server_is_silent(promtool):
    assert_passes(promtool([unit_test(IDLE, *((at, name, []) for name in NAMES for at in ("5m", "60m", "115m")))]))


def test_nothing_at_all_is_one_alert(promtool):
    absent = [{"severity": "warning"}]
    assert_passes(
        promtool(
            [unit_test({}, *(("60m", name, absent if name == "HeadroomExporterAbsent" else []) for name in NAMES))]
        )
    )


def test_a_restart_of_daemon_and_engine_is_silent(promtool):
    """Three minutes without any series, after which counters begin again at zero."""
    restarted = {
        name: values.split("+")[0] + "+0x40 _x3 " + values.split("+")[0] + "+0x60" for name, values in IDLE.items()
    }
    for name in IDLE:
        if "_total" in name:
            restarted[name] = "11+0x40 _x3 0+0x60"
    assert_passes(
        promtool([unit_test(restarted, *((f"{at}m", name, []) for name in NAMES for at in range(40, 104, 8)))])
    )


def test_an_engine_that_comes_back_as_another_model_has_dropped_no_capacity(promtool):
    before = 'headroom_engine_kv_capacity_tokens{engine="e:8000",instance="h:9738",model_name="small"}'
    after = 'headroom_engine_kv_capacity_tokens{engine="e:8000",instance="h:9738",model_name="large"}'
    series = {before: "1000+0x20 stale", after: "_x25 200+0x90"}
    assert_passes(promtool([unit_test(series, ("90m", "HeadroomEngineCapacityDropped", []))]))


@pytest.mark.parametrize("example", cases())
def test_it_says_what_is_wrong_with_values_and_where_to_look(promtool, example):
    alert = next(each for each in ALERTS if (each.name, str(each.severity)) == (example.alert, example.severity))
    labels = {**example.subject, **example.extra}
    # What it got instead of the nothing that it is told to expect is how promtool shows annotations.
    result = promtool([unit_test(example.bad, (example.at, example.alert, []))], alerts=[alert], words=True)
    said = re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', result.stdout + result.stderr)
    assert any(name == "description" and text.startswith(example.says) for name, text in said), said
    assert not [text for _, text in said if "<error" in text or "no value" in text]
    board = annotations(alert, Places())["dashboard_url"]
    for name, value in labels.items():
        board = board.replace(f"{{{{ $labels.{name} | urlquery }}}}", quote(value, safe=""))
    assert ("dashboard_url", re.sub(r"\{\{.*?\}\}", "", board)) in said


@pytest.mark.parametrize("kind", ["alerts", "recordings"])
def test_promtool_has_nothing_to_say_of_the_committed_rules(kind):
    if not shutil.which("promtool"):
        pytest.skip("needs promtool (Debian package prometheus)")
    file = GENERATED / "prometheus" / f"vllm-headroom.{kind}.yaml"
    checked = subprocess.run(
        ["promtool", "check", "rules", "--lint=all", "--lint-fatal", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_examples_name_the_subjects_that_alerts_are_about():
    assert {"gpu"} <= GPU.keys() and {"engine"} <= ENGINE.keys() and {"instance"} <= TARGET.keys()


@pytest.mark.parametrize(
    ("name", "series", "value", "subject"),
    [
        ("HeadroomEngineWouldNotRestart", "headroom_engine_restart_fits", 0, ENGINE),
        ("HeadroomGpuOvercommitted", "headroom_gpu_memory_slack_bytes", -1, GPU),
    ],
)
def test_a_look_that_was_missed_does_not_make_a_long_wait_begin_anew(promtool, name, series, value, subject):
    labels = ",".join(f'{key}="{text}"' for key, text in subject.items())
    gaps = {f"{series}{{{labels}}}": f"{value}+0x5 stale _x2 {value}+0x20"}
    firing = [{**subject, "severity": "warning"}]
    assert_passes(promtool([unit_test(gaps, ("11m", name, firing))], alerts=both(name)))
