"""The simulation beside the real server."""

import pytest

from bench.fidelity.compare import Figure, figures, mean_of, table


def bench(**changes):
    seen = {
        "steps": 500,
        "preemptions": 14,
        "running": {"mean": 18.0, "peak": 31, "mean_per_step": 16.0},
        "kv_usage_ratio": {"mean": 0.9, "peak": 1.0, "mean_per_step": 0.85},
    }
    level = {
        "completed": 160,
        "output_tokens": 8842,
        "end_to_end_seconds": {"p95": 100.0},
        "time_to_first_token_seconds": {"p95": 80.0},
        "seen": seen | changes,
    }
    return {"levels": [level]}


def simulation(**changes):
    setting = {
        "requests": 160,
        "output_tokens": 8842,
        "steps": 505,
        "preemptions": 15,
        "end_to_end_seconds": {"p95": 110.0},
        "time_to_first_token_seconds": {"p95": 200.0},
    }
    shown = {
        "peak_running": 31,
        "mean_running": 18.2,
        "mean_running_per_step": 16.2,
        "mean_kv_usage_ratio": 0.92,
        "mean_kv_usage_ratio_per_step": 0.86,
    }
    shown |= {name: changes.pop(name) for name in tuple(changes) if name in shown}
    return {"settings": [setting | {"shown": shown} | changes]}


def missed(real, simulated):
    return {each.name for each in figures(real, simulated) if not each.good}


def test_what_lies_within_its_aim_is_good_and_what_has_none_is_not_judged():
    assert missed(bench(), simulation()) == set()


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"requests": 159}, "requests completed"),
        ({"output_tokens": 8841}, "output tokens"),
        ({"steps": 530}, "engine steps"),
        ({"mean_running_per_step": 17.0}, "running, mean of steps"),
        ({"peak_running": 34}, "running, peak"),
        ({"peak_running": 29}, "running, peak"),
        ({"mean_running": 19.0}, "running, mean over time"),
        ({"mean_kv_usage_ratio": 0.84}, "KV usage, mean over time"),
        ({"mean_kv_usage_ratio_per_step": 0.9}, "KV usage, mean of steps"),
        ({"preemptions": 18}, "preemptions"),
        ({"end_to_end_seconds": {"p95": 116.0}}, "end to end p95, s"),
    ],
)
def test_what_lies_further_off_is_missed(changes, name):
    assert missed(bench(), simulation(**changes)) == {name}


def test_a_handful_of_preemptions_may_differ_by_two():
    assert missed(bench(preemptions=1), simulation(preemptions=3)) == set()
    assert missed(bench(preemptions=0), simulation(preemptions=3)) == {"preemptions"}


def test_a_peak_between_two_looks_is_not_seen():
    assert missed(bench(), simulation(peak_running=33)) == set()


def test_the_table_says_what_was_missed():
    lines = list(table([Figure(name="steps", real=500, simulated=600, allowed_ratio=0.05, spread=(490, 510))]))
    assert lines[-1] == "| steps | 500 | 490 to 510 | 600 | +20.0% | 5%, missed |"


def test_several_runs_are_judged_by_their_means():
    runs = [figures(bench(preemptions=each), simulation(preemptions=15)) for each in (12, 14, 18)]
    preemptions = next(each for each in mean_of(runs) if each.name == "preemptions")
    assert (preemptions.real, preemptions.simulated, preemptions.spread) == (pytest.approx(44 / 3), 15, (12, 18))
    assert preemptions.good
