"""Every alert through promtool: it fires, it waits, it stays quiet, it ends, it survives restarts."""

import re
from urllib.parse import quote

import pytest

from advisor.policy import Policy
from dashboards.files import GENERATED
from dashboards.rules.catalogue import all_alerts
from dashboards.rules.prometheus import Places, alert_groups, annotations
from exporter.promql import selectors
from exporter.reference import all_metrics
from exporter.sources.nvml import _THROTTLE_REASONS
from tests.dashboards.promtool import assert_passes, promtool, run_unit_test
from tests.dashboards.rules.examples import ENGINE, EXAMPLES, GPU, IDLE, constant, engine, gpu

ALERTS = all_alerts(Policy())
NAMES = sorted({alert.name for alert in ALERTS})


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """Hold alerts over series against (time, alert name, labels of each alert that fires then).

    Without their words unless these are asked for.
    """
    directory = tmp_path_factory.mktemp("promtool")

    def run(series, *expectations, alerts=ALERTS, words=False):
        content = alert_groups(alerts, Places())
        for rule in (rule for group in content["groups"] for rule in group["rules"] if not words):
            del rule["annotations"]
        test = {
            "interval": "1m",
            "input_series": [{"series": name, "values": values} for name, values in series.items()],
            "alert_rule_test": [
                {"eval_time": at, "alertname": name, "exp_alerts": [{"exp_labels": labels} for labels in firing]}
                for at, name, firing in expectations
            ],
        }
        return run_unit_test(directory, test, rules=content)

    return run


def both(name):
    """Return an alert at all its severities."""
    return [alert for alert in ALERTS if alert.name == name]


def labels_of(example, severity):
    return {**example.subject, **example.extra, "severity": severity}


def cases():
    return [pytest.param(example, id=f"{example.alert}-{example.severity}") for example in EXAMPLES]


def test_every_alert_has_an_example_at_each_severity():
    assert {(each.alert, each.severity) for each in EXAMPLES} == {(each.name, str(each.severity)) for each in ALERTS}


@pytest.mark.needs_promtool
@pytest.mark.parametrize("example", cases())
def test_it_fires_and_only_after_the_time_it_must_last(judged, example):
    firing = [labels_of(example, severity) for severity in (example.severity, *example.also)]
    assert_passes(
        judged(
            example.bad,
            (example.not_before, example.alert, []),
            (example.at, example.alert, firing),
            alerts=both(example.alert),
        )
    )


@pytest.mark.needs_promtool
@pytest.mark.parametrize("example", cases())
def test_it_stays_quiet_at_what_is_no_trouble(judged, example):
    """At every minute, as it may be over within few, and when trouble that had lasted as long would fire."""
    milder = [labels_of(example, severity) for severity in example.still]
    first = int(example.at.removesuffix("m"))
    minutes = ((f"{minute}m", example.alert, milder) for minute in range(first, first + 61))
    assert_passes(judged(example.good, *minutes, alerts=both(example.alert)))


@pytest.mark.needs_promtool
@pytest.mark.parametrize("example", [each for each in cases() if each.values[0].bad])
def test_it_ends_when_its_series_do(judged, example):
    """A source that fails takes its series away: that is an alert of its own, not one that never ends."""
    minutes = int(example.at.removesuffix("m"))
    vanishing = {
        name: values if values.endswith("stale") else re.sub(r"x\d+$", f"x{minutes}", values) + " stale"
        for name, values in example.bad.items()
    }
    assert_passes(judged(vanishing, (f"{minutes + 60}m", example.alert, []), alerts=both(example.alert)))


@pytest.mark.needs_promtool
def test_memory_that_ended_lets_no_warning_of_the_risk_out_afterwards(judged):
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
    assert_passes(judged(growing, *expected, alerts=alerts))


@pytest.mark.needs_promtool
def test_an_idle_server_is_silent(judged):
    assert_passes(judged(IDLE, *((at, name, []) for name in NAMES for at in ("5m", "60m", "115m"))))


@pytest.mark.needs_promtool
def test_nothing_at_all_is_one_alert(judged):
    absent = [{"severity": "warning"}]
    assert_passes(judged({}, *(("60m", name, absent if name == "HeadroomExporterAbsent" else []) for name in NAMES)))


@pytest.mark.needs_promtool
def test_a_restart_of_daemon_and_engine_is_silent(judged):
    """Three minutes without any series, after which counters begin again at zero."""
    restarted = {
        name: values.split("+")[0] + "+0x40 _x3 " + values.split("+")[0] + "+0x60" for name, values in IDLE.items()
    }
    for name in IDLE:
        if "_total" in name:
            restarted[name] = "11+0x40 _x3 0+0x60"
    assert_passes(judged(restarted, *((f"{at}m", name, []) for name in NAMES for at in range(40, 104, 8))))


@pytest.mark.needs_promtool
def test_an_engine_that_comes_back_as_another_model_has_dropped_no_capacity(judged):
    before, after = (engine("kv_capacity_tokens", model_name=name) for name in ("small", "large"))
    capacity = {before: "1000+0x20 stale", after: "_x25 200+0x90"}
    assert_passes(judged(capacity, ("90m", "HeadroomEngineCapacityDropped", [])))


@pytest.mark.needs_promtool
@pytest.mark.parametrize("example", cases())
def test_it_says_what_is_wrong_with_values_and_where_to_look(judged, example):
    alert = next(each for each in ALERTS if (each.name, str(each.severity)) == (example.alert, example.severity))
    labels = {**example.subject, **example.extra}
    # What it got instead of the nothing that it is told to expect is how promtool shows annotations.
    result = judged(example.bad, (example.at, example.alert, []), alerts=[alert], words=True)
    said = re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', result.stdout + result.stderr)
    assert any(name == "description" and text.startswith(example.says) for name, text in said), said
    assert not [text for _, text in said if "<error" in text or "no value" in text]
    board = annotations(alert, Places())["dashboard_url"]
    for name, value in labels.items():
        board = board.replace(f"{{{{ $labels.{name} | urlquery }}}}", quote(value, safe=""))
    assert ("dashboard_url", re.sub(r"\{\{.*?\}\}", "", board)) in said


@pytest.mark.needs_promtool
@pytest.mark.parametrize("kind", ["alerts", "recordings"])
def test_promtool_has_nothing_to_say_of_the_committed_rules(kind):
    file = f"vllm-headroom.{kind}.yaml"
    assert_passes(promtool("check", "rules", "--lint=all", "--lint-fatal", file, within=GENERATED / "prometheus"))


def test_examples_are_made_of_series_as_the_daemon_and_prometheus_write_them():
    """A label that no such series has, or one that all have and the example has not, would prove nothing."""
    written = {metric.name: set(metric.labels) for _, metric in all_metrics()} | {"up": set()}
    for shown in [*IDLE, *(name for each in EXAMPLES for name in (*each.bad, *each.good))]:
        (selector,) = selectors(shown)
        assert {label for label, _ in selector.matchers} == written[selector.name] | {"job", "instance"}


@pytest.mark.needs_promtool
@pytest.mark.parametrize(
    ("name", "shown", "value", "subject"),
    [
        ("HeadroomEngineWouldNotRestart", engine("restart_fits"), 0, ENGINE),
        ("HeadroomGpuOvercommitted", gpu("memory_slack_bytes"), -1, GPU),
    ],
)
def test_a_look_that_was_missed_does_not_make_a_long_wait_begin_anew(judged, name, shown, value, subject):
    gaps = {shown: f"{value}+0x5 stale _x2 {value}+0x20"}
    firing = [{**subject, "severity": "warning"}]
    assert_passes(judged(gaps, ("11m", name, firing), alerts=both(name)))


@pytest.mark.needs_promtool
def test_a_risk_that_wavers_is_one_alert(judged):
    risk = {gpu("oom_risk_ratio"): "0.3+0x20 0.1+0x8 0.3+0x5 0.1+0x60"}
    firing = [{**GPU, "severity": "warning"}]
    through = ((f"{minute}m", "HeadroomGpuOomRisk", firing) for minute in range(2, 45))
    assert_passes(judged(risk, *through, ("47m", "HeadroomGpuOomRisk", []), alerts=both("HeadroomGpuOomRisk")))


@pytest.mark.needs_promtool
def test_clocks_held_down_for_every_reason_but_the_boards_settings_are_an_alert(judged):
    held = {gpu("throttled", reason=reason, gpu=reason): constant(1) for reason in _THROTTLE_REASONS}
    alarming = _THROTTLE_REASONS.keys() - {"sw_power_cap", "sync_boost"}
    firing = [{**GPU, "gpu": reason, "severity": "warning"} for reason in alarming]
    assert_passes(judged(held, ("30m", "HeadroomGpuThrottled", firing)))
