"""What the tuning benchmark serves, in which order, and how it judges."""

from dataclasses import replace

import pytest

from advisor.load import to_json
from advisor.loadtest import End, Look, Sample
from bench.page import replaced
from bench.tuning.campaign import SWEEP, observing, sweeping
from bench.tuning.judge import (
    BY_MAX_MODEL_LEN,
    WRONG_SETTINGS,
    advice,
    best,
    by_mean_length,
    cells,
    gain_shown,
    paired_ratios,
    regret,
    spreads,
)
from bench.tuning.report import report
from bench.tuning.runs import RUNS, Run, append_run, read_runs
from bench.tuning.serve import latency_steps, longest_stall_steps
from bench.tuning.workloads import MAX_MODEL_LEN, workloads
from tests.advisor.loads import told

NAME = "fixed lengths"


def run(seqs=16, *, repetition=1, steps=1_000, preemptions=0, completed=100, **more):
    given = {
        "workload": NAME,
        "max_num_seqs": seqs,
        "repetition": repetition,
        "requests": 100,
        "completed": completed,
        "prompt_tokens": 30_000,
        "output_tokens": 10_000,
        "steps": steps,
        "preemptions": preemptions,
        "recomputed_tokens": 400,
        "mean_running": 10.0,
        "longest_stall_steps": 20.0,
        "longest_stall_seconds": 0.2,
        "median_gap_seconds": 0.01,
        "engine_cpu_seconds": 5.0,
        "wall_seconds": 10.0,
        "began": "2026-01-01T00:00:00Z",
        "vllm_version": "0.32.0",
        "max_num_batched_tokens": 4096,
    }
    return Run(**(given | more))


def observed(seqs, **more):
    (load,) = to_json({("server", "0"): told(current=seqs, mean=636.0, spread=0.6, **more)})
    return run(seqs, repetition=0, load=load)


def sweep(**steps_and_preemptions):
    return [
        run(int(seqs[1:]), repetition=repetition, steps=steps, preemptions=preemptions)
        for seqs, (steps, preemptions) in steps_and_preemptions.items()
        for repetition in (1, 2, 3)
    ]


def full_sweep(**steps_and_preemptions):
    """The settings named, and all others of the sweep as so bad that none of them is the best."""
    return sweep(**({f"s{each}": (9_999, 0) for each in SWEEP} | steps_and_preemptions))


class TestWorkloads:
    @pytest.mark.parametrize("name", list(workloads("judged")))
    def test_what_is_judged_by_is_not_what_was_observed_and_half_of_it(self, name):
        seen, judged = workloads("observed")[name], workloads("judged")[name]
        assert len(seen.requests) == 2 * len(judged.requests) >= 200  # advice waits for a hundred of them
        if name != "fixed lengths":
            assert seen.requests[: len(judged.requests)] != judged.requests
        assert all(each.prompt_tokens + each.output_tokens <= MAX_MODEL_LEN for each in judged.requests)

    @pytest.mark.parametrize("name", ["conversation x 0.5", "bursts"])
    def test_what_is_observed_can_come_several_times_over_one_round_after_the_other(self, name):
        once = workloads("observed")[name]
        twice = once.repeated(2)
        lengths = [(each.prompt_tokens, each.output_tokens) for each in once.requests]
        assert [(each.prompt_tokens, each.output_tokens) for each in twice.requests] == lengths * 2
        if once.users is None:
            moments = [each.seconds for each in twice.requests]
            assert moments == sorted(moments)
        assert once.repeated(1) == once

    def test_the_same_requests_come_every_time(self):
        assert workloads("judged") == workloads("judged")

    def test_there_are_six_kinds_or_more_and_demand_beyond_the_cache_in_all_but_one(self):
        loads = workloads("judged").values()
        assert len(loads) >= 6
        few = [load.name for load in loads if load.users is not None and load.users < by_mean_length(load)]
        assert few == ["ten users"]


class TestCampaign:
    def test_both_wrong_settings_are_observed_before_anything_else(self):
        loads = workloads("observed")
        assert [(visit.max_num_seqs, set(visit.workloads)) for visit in observing([], loads)] == [
            (64, set(loads)),
            (4, set(loads)),
        ]

    def test_every_repetition_has_every_setting_in_an_order_of_its_own(self):
        visits = sweeping([], {NAME: workloads("judged")[NAME]}, repetitions=3)
        orders = [[each.max_num_seqs for each in visits if each.repetition == number][:8] for number in (1, 2, 3)]
        assert all(set(order) == set(SWEEP) for order in orders)
        assert orders[0] != orders[1]

    def test_what_is_advised_is_served_too_and_what_the_formula_says_comes_last(self):
        runs = [observed(64), observed(4, running=4.0, preempted=0.0, limited=0.9)]
        visits = sweeping(runs, {NAME: workloads("judged")[NAME]}, repetitions=2)
        assert {advice(runs, NAME, start).recommended for start in WRONG_SETTINGS} == {15}
        assert sum(visit.max_num_seqs == 15 for visit in visits) == 2
        assert [visit.max_num_seqs for visit in visits[-2:]] == [by_mean_length(workloads("judged")[NAME])] * 2

    def test_a_run_that_was_made_is_not_made_again_and_one_that_failed_is(self):
        made = [run(seqs, repetition=repetition) for seqs in SWEEP for repetition in (1, 2)]
        failed = replace(made[0], completed=99)
        visits = sweeping([failed, *made[1:]], {NAME: workloads("judged")[NAME]}, repetitions=2)
        assert [visit.max_num_seqs for visit in visits] == [failed.max_num_seqs, 30, 30]


class TestJudge:
    found = cells(sweep(s8=(1_800, 0), s12=(1_200, 0), s16=(1_000, 1), s24=(900, 10), s64=(800, 20)), NAME)

    def test_the_best_is_the_one_with_the_fewest_steps_of_those_that_preempt_few(self):
        assert best(self.found).max_num_seqs == 16
        assert best(cells(sweep(s24=(900, 10)), NAME)) is None

    def test_regret_is_steps_beyond_the_best(self):
        assert regret(self.found, 12).steps_ratio == pytest.approx(0.2)
        assert regret(self.found, 64).steps_ratio == pytest.approx(-0.2)
        assert regret(self.found, 64).preempted_ratio == 0.2
        assert regret(self.found, 13) is None

    def test_where_nobody_was_preempted_nobody_stalled(self):
        assert regret(self.found, 12).stall_steps == 0
        assert regret(self.found, 24).stall_steps == 20

    def test_runs_that_were_observed_or_failed_are_not_judged_by(self):
        runs = [run(), run(repetition=0, steps=5), run(repetition=2, completed=99, steps=5)]
        assert [each.steps for each in cells(runs, NAME)[16].runs] == [1_000]

    def test_a_gain_is_shown_by_every_repetition_or_not_at_all(self):
        assert gain_shown(self.found, current=64, recommended=16)
        assert gain_shown(self.found, current=8, recommended=16)
        assert not gain_shown(self.found, current=12, recommended=8)
        assert gain_shown(self.found, current=64, recommended=15) is None
        once = cells([run(64, preemptions=3), run(64, repetition=2), run(16), run(16, repetition=2)], NAME)
        assert not gain_shown(once, current=64, recommended=16)

    def test_a_preemption_less_is_no_gain_that_is_shown(self):
        fewer = cells([run(64, preemptions=8), run(48, preemptions=7), run(16, preemptions=0)], NAME)
        assert gain_shown(fewer, current=64, recommended=48) is False
        assert gain_shown(fewer, current=64, recommended=16) is True

    def test_figures_are_compared_within_a_repetition(self):
        runs = [run(64, wall_seconds=10), run(16, wall_seconds=12), run(64, repetition=2, wall_seconds=40)]
        both = cells([*runs, run(16, repetition=2, wall_seconds=20)], NAME)
        assert paired_ratios(both, lambda each: each.wall_seconds, current=64, recommended=16) == [0.5, 1.2]
        assert paired_ratios(both, lambda each: each.latency_p95_steps, current=64, recommended=16) == []
        assert paired_ratios(both, lambda each: each.wall_seconds, current=64, recommended=15) == ()

    def test_noise_is_how_far_runs_of_the_same_setting_lie_apart(self):
        steady, shaky = [run(16), run(16, repetition=2)], [run(64), run(64, repetition=2, steps=1_100)]
        found_cells = cells([*steady, *shaky, run(8)], NAME).values()
        assert spreads(found_cells, lambda each: each.steps) == [0, pytest.approx(0.1)]
        assert spreads(found_cells, lambda each: each.gap_p99_seconds) == []

    def test_advice_is_the_last_word_on_the_observed_run(self):
        assert advice([observed(64)], NAME, 64).recommended == 15
        assert advice([observed(64, advised=17)], NAME, 64).recommended == 15
        assert advice([observed(64)], NAME, 4) is None
        assert advice([observed(64, finished=50)], NAME, 64) is None

    def test_the_usual_formula_says_six_here(self):
        assert BY_MAX_MODEL_LEN == 6


class TestStalls:
    looks = tuple(Look(seconds=float(second), steps=100.0 * second) for second in range(11))

    def stall(self, *arrivals):
        sample = Sample(sent_seconds=0.0, ended_seconds=10.0, end=End.OK, arrivals=arrivals)
        return longest_stall_steps([sample], self.looks)

    def test_a_token_in_every_step_is_no_stall(self):
        assert self.stall(*((second / 100, 1) for second in range(100, 200))) == pytest.approx(0, abs=1e-6)

    def test_steps_without_a_token_are_counted(self):
        arrivals = [(second / 100, 1) for second in [*range(100, 150), *range(200, 250)]]
        assert self.stall(*arrivals) == pytest.approx(50, abs=1e-6)

    def test_a_client_that_was_slow_to_read_did_not_stall(self):
        # Nothing for fifty steps, then all that was missed at once, piece by piece.
        late = [*range(100, 150), *([200] * 50), *range(200, 250)]
        assert self.stall(*((second / 100, 1) for second in late)) == pytest.approx(0, abs=1e-6)

    def test_several_tokens_in_one_piece_are_no_stall(self):
        assert self.stall(*((second / 100, 10) for second in range(100, 200, 10))) == pytest.approx(0, abs=1e-6)

    def test_latency_in_steps_is_how_many_the_engine_did_meanwhile(self):
        sample = Sample(sent_seconds=2.0, ended_seconds=4.5, end=End.OK)
        assert latency_steps([sample], self.looks) == [pytest.approx(250)]

    def test_no_answer_no_stall(self):
        assert longest_stall_steps([], self.looks) == 0
        assert self.stall() == 0
        assert self.stall((1.0, 1)) == 0


def words(text):
    """Without line breaks: paragraphs are wrapped."""
    return " ".join(text.split())


class TestReport:
    def test_it_is_worked_out_from_the_runs_alone_and_says_how_many_they_are(self):
        runs = [
            observed(64),
            observed(4, running=4.0, preempted=0.0, limited=0.9),
            *full_sweep(s4=(4_000, 0), s6=(2_600, 0), s15=(1_000, 0), s30=(900, 9), s64=(800, 20)),
            run(completed=3),
        ]
        text = words(report(runs))
        assert "32 runs (1 more in which" in text
        assert "3 of each workload and setting" in text
        assert "| steps beyond the best, worst | <= 8% | +0.0% | met |" in text
        assert "| changes advised whose gain every repetition shows | all | 2 of 2 | met |" in text
        assert f"| {NAME} | 64 | 0.0% | 15 (" in text
        assert "| tokens / max-model-len (6) | 1 | +160.0% |" in text
        assert text == words(report(runs))

    def test_aims_that_are_missed_are_said_to_be(self):
        runs = [observed(64), *full_sweep(s15=(1_000, 5), s12=(900, 0), s64=(800, 0))]
        text = words(report(runs))
        assert "advised values that preempt more than 1% | none | 1 of 1, at most 5.0% | **missed**" in text
        assert "| changes advised whose gain every repetition shows | all | 0 of 1 | **missed** |" in text

    def test_what_a_change_did_and_the_noise_are_told_with_the_runs_they_rest_on(self):
        runs = [observed(64), *full_sweep(s64=(1_000, 20), s15=(1_100, 0))]
        runs = [replace(each, steps=880) if each.max_num_seqs == 64 and each.repetition == 3 else each for each in runs]
        text = words(report(runs))
        assert f"| {NAME} | 64 to 15 | 20/20/20 to 0/0/0 | 1.10 (1.10 to 1.25) |" in text
        assert "| steps | 9 | 0.0% | 13.6% |" in text
        assert "3 of each workload and setting" in text
        assert "of 9 pairs of workload and setting 8 have 3, 1 have 2" in words(report(runs[:-1]))
        assert "nothing can be said of the noise" in report([each for each in runs if each.repetition < 2])

    def test_settings_that_were_not_run_are_named_and_a_best_of_few_is_none(self):
        runs = [observed(64), *full_sweep(s15=(1_000, 0), s64=(900, 20))]
        lacking = [each for each in runs if each.max_num_seqs not in (6, 8, 24)]
        assert f"the best is the best of the others: {NAME}: 6, 8, 24." in words(report(lacking))
        text = words(report([each for each in lacking if each.max_num_seqs != 12]))
        assert "cannot be said: no sweep is complete" in text
        assert f"| {NAME} | 64 | 0.0% | 15 (" in text
        assert "| not swept | - | 0.0% | 0 | - | 20.0% | yes |" in text
        assert "(best)" not in text
        assert "Beside the usual formulas" not in text

    def test_without_a_run_it_says_so(self):
        assert report([]) == "No run has been made yet."

    def test_what_was_advised_and_never_served_is_not_judged(self):
        runs = [observed(64), observed(4, preempted=0.0), *full_sweep(s4=(900, 0), s64=(800, 0))]
        text = words(report(runs))
        assert "1 of 2 are judged by the best" in text
        assert "1 of 2 values advised were served" in text
        assert report([runs[0], *runs[2:]]).startswith("Nothing can be judged yet")

    def test_the_page_shows_the_runs_that_are_in_the_repository(self):
        page = (RUNS.parents[2] / "docs" / "tuning.md").read_text(encoding="utf-8")
        assert replaced(page, report(read_runs()), target="tuning-bench") == page


def test_what_is_written_down_is_read_back(tmp_path):
    file = tmp_path / "runs.jsonl"
    assert read_runs(file) == []
    for each in (run(), observed(64)):
        append_run(each, file)
    assert read_runs(file) == [run(), observed(64)]
