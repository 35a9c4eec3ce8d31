import gzip
import random

import pytest

from advisor.policy import Policy
from bench.pressure.__main__ import RECORDINGS
from bench.pressure.plan import SERVERS, TRACE, Offered
from bench.pressure.recording import read, written
from bench.pressure.report import parts_of, report
from bench.pressure.score import (
    RULES,
    Moment,
    Story,
    at_recall,
    base_rate_brier,
    calibration,
    horizon_policy,
    judged,
    lead_seconds,
    onsets,
    our_brier,
    risk_above,
    score,
    told,
)
from bench.pressure.simulated import KINDS, simulated

RECORDED = sorted(RECORDINGS.glob("*.jsonl.gz"))


def moment(seconds, *, risk=0.0, usage=0.5, waiting=0.0, lately=False, came=False):
    return Moment(
        seconds=seconds,
        risk_ratio=risk,
        usage_ratio=usage,
        waiting=waiting,
        preempted_lately=lately,
        came=came,
    )


def story(*moments, onsets_seconds=(), kind="made up"):
    return Story(recording="r", kind=kind, half="held out", moments=moments, onsets_seconds=onsets_seconds)


@pytest.fixture(scope="module")
def job():
    """An offline job that keeps the cache about 95% full."""
    return simulated("job, 95 % full", 1000, "held out")


def test_a_recording_is_read_back_as_it_was_written(tmp_path):
    (path,) = RECORDED[:1]
    recording = read(path)
    again = tmp_path / "again"
    again.write_bytes(written(recording))
    assert read(again) == recording
    assert written(recording) == written(read(again))


def test_a_file_of_another_format_is_refused(tmp_path):
    path = tmp_path / "other"
    path.write_bytes(gzip.compress(b'{"format": 7}\n'))
    with pytest.raises(ValueError, match="not a recording of format 1"):
        read(path)


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.name)
def test_what_was_recorded_is_planned_and_tells_a_load(path):
    recording = read(path)
    (stretch,) = [each for server in SERVERS for each in server.stretches if each.name == recording.name]
    assert (stretch.half, stretch.offered.words) == (recording.half, recording.load)
    first, last = recording.pages[0][1], recording.pages[-1][1]
    assert first.vllm_version == "0.32.0"
    assert last.totals["generation_tokens_total"] > first.totals["generation_tokens_total"]
    assert judged([told(recording, horizon_policy(30.0))])


def test_the_recordings_are_small():
    assert sum(path.stat().st_size for path in (*RECORDED, TRACE)) < 2_000_000


def test_a_stretch_whose_speed_rises_gets_denser():
    times = [each.seconds for each in Offered(begin=0, speeds=(0.1, 0.6)).requests()]
    assert times == sorted(times)
    assert sum(each > 75 for each in times) > 2 * sum(each <= 75 for each in times)


def test_a_simulated_engine_is_the_same_whenever_it_is_made(job):
    assert simulated("job, 95 % full", 1000, "held out") == job
    assert simulated("job, 95 % full", 1001, "held out") != job


def test_every_kind_of_load_leaves_something_to_do():
    for name, kind in KINDS.items():
        load = kind(random.Random(name))
        assert load.capacity_tokens > 10 * load.lengths.held
        assert load.clients or load.fill(0.0) > 0


def test_a_job_that_keeps_the_cache_95_percent_full_and_preempts_nobody_is_healthy(job):
    # In the minutes in which it fills up nobody can know that it will stop below the capacity.
    moments = [each for each in judged([told(job, Policy())]) if each.seconds > 300]
    usage = sum(each.usage_ratio for each in moments) / len(moments)
    assert usage > 0.9
    assert job.pages[-1][1].totals["preemptions_total"] == 0
    assert max(each.risk_ratio for each in moments) < Policy().preemption_risk_warning_ratio
    assert sum(each.risk_ratio for each in moments) / len(moments) < 0.3


def test_onsets_are_preemptions_after_quiet():
    times, counts = [0, 1, 2, 3, 20, 40, 41], [0, 0, 1, 2, 2, 3, 4]
    assert list(onsets(times, counts, 10)) == [2, 40]


def test_an_alert_leads_from_when_it_began_over_pauses_of_a_few_seconds():
    moments = [moment(float(second), risk=0.9 if second in (1, 10, 11, 14) else 0.0) for second in range(17)]
    told_before = story(*moments, onsets_seconds=(16.0,))
    assert lead_seconds(told_before, risk_above(0.5), 16.0) == 6.0
    assert lead_seconds(told_before, risk_above(0.95), 16.0) == 0.0
    assert lead_seconds(story(*moments), risk_above(0.5), 9.0) == 0.0


def test_a_rule_is_judged_by_what_it_recalls_and_what_it_cries_for_nothing():
    told_story = story(
        moment(0.0, usage=0.95, came=True),
        moment(1.0, usage=0.95),
        moment(2.0, usage=0.5, came=True),
        moment(3.0, usage=0.5),
        moment(4.0, usage=0.5),
        onsets_seconds=(2.5,),
    )
    found = score([told_story], RULES["usage > 90%"])
    assert (found.recall_ratio, found.precision_ratio) == (0.5, 0.5)
    assert found.false_ratio == pytest.approx(1 / 3)
    assert found.brier == pytest.approx(2 / 5)
    assert (found.onsets, found.onsets_recalled) == (1, 1)


def test_brier_and_calibration_compare_what_was_said_with_what_came():
    moments = [moment(0.0, risk=0.95, came=True), moment(1.0, risk=0.92), moment(2.0, risk=0.05)]
    assert our_brier(moments) == pytest.approx((0.05**2 + 0.92**2 + 0.05**2) / 3)
    assert base_rate_brier(moments) == pytest.approx(2 / 9)
    bins = calibration(moments)
    assert bins[0] == (1, 0, 0.05)
    assert bins[9][:2] == (2, 1)


def test_equal_recall_takes_the_highest_threshold_that_reaches_it():
    moments = [moment(0.0, risk=each, came=True) for each in (0.9, 0.6, 0.3)] + [
        moment(0.0, risk=each) for each in (0.7, 0.1)
    ]
    assert at_recall(moments, 0.3) == (0.9, 0.0)
    assert at_recall(moments, 0.5) == (0.6, 0.5)
    assert at_recall(moments, 1.0) == (0.3, 0.5)


def test_the_report_tells_kinds_calibration_and_rules(job):
    stories = [told(job, Policy()), story(moment(0.0, risk=0.9, usage=0.95, came=True), onsets_seconds=(1.0,))]
    text = report(parts_of("Simulated", 300.0, stories))
    assert "### Simulated, held out" in text
    assert "tuning" not in text
    assert "| job, 95 % full | " in text
    assert "| usage > 90% | 100% |" in text
