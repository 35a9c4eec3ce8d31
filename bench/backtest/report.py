"""The back-test's result as the section of docs/risk.md that `make backtest` writes."""

from collections.abc import Callable, Iterable, Sequence
from statistics import median

from advisor.policy import Policy
from bench.backtest.held_out import HELD_OUT
from bench.backtest.kinds import SHAPING
from bench.backtest.rules import RULES
from bench.backtest.run import Scores
from bench.backtest.score import BINS, LEAST_LEAD_SECONDS, THRESHOLDS, AlertScore, HistoryScore

CALM = ("flat", "sawtooth", "daily_wave", "engine_restart", "neighbour_restart", "gaps_and_reboots")
"""Kinds of which most histories do not end; only those that do not are counted as calm."""
_WEEK, _MONTH = 7 * 86_400.0, 30 * 86_400.0


def report(scores: Scores, policy: Policy) -> str:
    """Return the section as Markdown."""
    ours = str(policy.oom_risk_warning_ratio)
    parts = [
        _per_kind(scores, ours),
        _aims(scores, ours),
        _thresholds(scores),
        _calibration(scores),
        _rules(scores, ours),
        _equal(scores),
    ]
    return "\n\n".join(parts) + "\n"


def _ahead(alert: AlertScore) -> bool:
    return alert.lead_seconds is not None and alert.lead_seconds >= LEAST_LEAD_SECONDS


def _recall(histories: Sequence[HistoryScore], name: str) -> float | None:
    return sum(_ahead(each.alerts[name]) for each in histories) / len(histories) if histories else None


def _per_week(histories: Iterable[HistoryScore], name: str, span: float = _WEEK) -> float:
    histories = tuple(histories)
    return sum(each.alerts[name].false_alarms for each in histories) / sum(each.seconds for each in histories) * span


def _hours_per_week(histories: Sequence[HistoryScore], name: str) -> float:
    false = sum(each.alerts[name].false_seconds for each in histories)
    return false / sum(each.seconds for each in histories) * _WEEK / 3600


def _brier(histories: Sequence[HistoryScore], name: str) -> float:
    return sum(each.squares[name] for each in histories) / sum(sum(each.said) for each in histories)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _of(histories: Sequence[HistoryScore], name: str) -> str:
    """Return a recall that is held against an aim, so exactly that rounding does not reach it."""
    recall = _recall(histories, name)
    return f"{'-' if recall is None else f'{recall:.1%}'} of {len(histories)}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _per_kind(scores: Scores, ours: str) -> str:
    rows = []
    for name, histories in scores.items():
        ended = [each for each in histories if each.ended]
        visible = [each for each in ended if each.visible]
        leads = sorted(each.alerts[ours].lead_seconds or 0.0 for each in visible)
        rows.append(
            [
                name.replace("_", " ") + (" *" if name in HELD_OUT else ""),
                f"{len(histories)}",
                f"{sum(each.seconds for each in histories) / 86_400:.0f}",
                f"{len(ended)}",
                f"{len(visible)}",
                _share(_recall(visible, ours)),
                _share(_recall(ended, ours)),
                f"{median(leads) / 60:.1f} min" if leads else "-",
                f"{leads[len(leads) // 10] / 60:.1f} min" if leads else "-",
                f"{_per_week(histories, ours):.2f}",
                f"{_brier(histories, 'ours'):.4f}",
            ]
        )
    header = ["kind", "histories", "GPU-days", "OOM", "visible", "recall of visible", "recall of all"]
    header += ["lead, median", "lead, p10", "false alarms a GPU-week", "Brier"]
    return (
        f"### Each kind\n\nParameters of the kinds with * were chosen after the model was frozen ({len(HELD_OUT)} of "
        f"{len(HELD_OUT) + len(SHAPING)}). Recall counts alerts that fire at least five minutes before the end and "
        f"still fire then; a lead of 0 stands for no alert.\n\n" + _table(header, rows)
    )


def _aims(scores: Scores, ours: str) -> str:
    visible = [each for histories in scores.values() for each in histories if each.visible]
    made_after = [each for name, histories in scores.items() if name in HELD_OUT for each in histories if each.visible]
    calm = _calm(scores)
    missed = [
        f"{name.replace('_', ' ')} {_share(recall)}"
        for name, histories in scores.items()
        if (recall := _recall([each for each in histories if each.visible], ours)) is not None and recall < 0.95
    ]
    rows = [
        [
            "visible OOMs alerted five minutes ahead, all kinds",
            ">= 95%",
            _of(visible, ours),
        ],
        [
            "the same, kinds written after the freeze",
            ">= 95%",
            _of(made_after, ours),
        ],
    ]
    if calm:
        late = sum(each.alerts[ours].late_false_alarms for each in calm)
        late_seconds = sum(max(0.0, each.seconds - 10_800) for each in calm)
        rows += [
            [
                f"false alarms a GPU-month, calm histories of {', '.join(CALM)}",
                "< 1",
                f"{_per_week(calm, ours, _MONTH):.2f} in {sum(each.seconds for each in calm) / _MONTH:.0f} GPU-months",
            ],
            ["the same after a GPU was watched for three hours", "< 1", f"{late / late_seconds * _MONTH:.2f}"],
        ]
        rows += [
            [f"of these: {name.replace('_', ' ')}", "< 1", f"{_per_week(quiet, ours, _MONTH):.2f}"]
            for name in CALM
            if (quiet := [each for each in scores.get(name, ()) if not each.ended])
        ]
    text = "### The aims\n\n" + _table(["aim", "wanted", "measured"], rows)
    return text + (f"\n\nBelow 95% of the visible: {', '.join(missed)}." if missed else "")


def _calm(scores: Scores) -> list[HistoryScore]:
    return [each for name in CALM for each in scores.get(name, ()) if not each.ended]


def _thresholds(scores: Scores) -> str:
    everything = [each for histories in scores.values() for each in histories]
    visible, calm = [each for each in everything if each.visible], _calm(scores)
    rows = [
        [
            f"{threshold}",
            _share(_recall(visible, str(threshold))),
            _share(_recall([each for each in everything if each.ended], str(threshold))),
            f"{_per_week(calm, str(threshold), _MONTH):.2f}" if calm else "-",
            f"{_per_week(everything, str(threshold)):.2f}",
        ]
        for threshold in THRESHOLDS
    ]
    header = ["risk above", "recall of visible", "recall of all", "false alarms a GPU-month, calm"]
    return "### Other thresholds\n\n" + _table([*header, "false alarms a GPU-week, all kinds"], rows)


def _calibration(scores: Scores) -> str:
    def line(label: str, histories: Sequence[HistoryScore]) -> list[str]:
        cells = []
        for place in range(BINS):
            said = sum(each.said[place] for each in histories)
            came = sum(each.came[place] for each in histories)
            cells.append(f"{came / said:.0%} of {said}" if said else "-")
        return [label, *cells]

    everything = [each for histories in scores.values() for each in histories]
    promised = ("late_peak", "over_committed")
    without = [each for name, histories in scores.items() if name not in promised for each in histories]
    with_claims = [each for name in promised for each in scores.get(name, ())]
    after = [each for name, histories in scores.items() if name in HELD_OUT for each in histories]
    rows = [
        line("all kinds", everything),
        line("kinds written after the freeze", after),
        line("without late peak and over committed", without),
        line("late peak and over committed", with_claims),
    ]
    header = ["moments that said", *(f"{place / BINS:.1f}-{(place + 1) / BINS:.1f}" for place in range(BINS))]
    return "### Calibration\n\nShare of moments after which memory did end within the horizon.\n\n" + _table(
        header, rows
    )


def _rules(scores: Scores, ours: str) -> str:
    def cell(name: str) -> Callable[[Sequence[HistoryScore]], str]:
        def text(histories: Sequence[HistoryScore]) -> str:
            recall = _share(_recall([each for each in histories if each.ended], name))
            return f"{recall} / {_per_week(histories, name):.1f} / {_hours_per_week(histories, name):.1f}"

        return text

    names = [ours, *RULES]
    cells = [cell(name) for name in names]
    rows = [[kind.replace("_", " "), *(each(histories) for each in cells)] for kind, histories in scores.items()]
    everything = [each for histories in scores.values() for each in histories]
    rows.append(["**all**", *(each(everything) for each in cells)])
    brier = ", ".join(f"{name} {_brier(everything, name):.4f}" for name in ("ours", *RULES))
    return (
        "### Beside the rules of today\n\nRecall of all OOMs / false alarms a GPU-week / hours of false alarm a "
        "GPU-week.\n\n"
        + _table(["kind", f"risk > {ours}", *RULES], rows)
        + f"\n\nBrier score over all moments, a rule saying 0 or 1: {brier}."
    )


def _equal(scores: Scores) -> str:
    """Compare at equal recall: ours at the highest threshold that recalls as much as the rule does."""
    worse: list[str] = []
    compared = 0
    for kind, histories in scores.items():
        ended = [each for each in histories if each.ended]
        for rule in RULES:
            wanted = _recall(ended, rule)
            compared += 1
            reach = [name for name in map(str, THRESHOLDS) if wanted is None or (_recall(ended, name) or 0.0) >= wanted]
            hours = _hours_per_week(histories, rule)
            shown = f"{kind.replace('_', ' ')}, {rule}"
            if not reach:
                best = str(THRESHOLDS[0])
                worse.append(
                    f"{shown}: recalls {_share(wanted)}, with {hours:.2f} h of false alarm a week; "
                    f"ours {_share(_recall(ended, best))} at best, with {_hours_per_week(histories, best):.2f} h"
                )
            elif not wanted:
                continue  # saying nothing at all recalls as much, without a false alarm
            else:
                best = min(reach, key=lambda name: _hours_per_week(histories, name))
                mine = _hours_per_week(histories, best)
                if mine > hours:
                    worse.append(
                        f"{shown}: both recall {_share(wanted)}; {hours:.2f} h of false alarm a week, ours {mine:.2f} h"
                    )
    text = (
        f"### At equal recall\n\nOurs at the threshold that recalls at least as many OOMs as the rule does, by hours "
        f"of false alarm: better or equal in {compared - len(worse)} of {compared} pairs of kind and rule."
    )
    return text + (" Not better in:\n\n" + "\n".join(f"- {each}" for each in worse) if worse else "")
