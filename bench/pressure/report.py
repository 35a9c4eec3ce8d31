"""The result as the section of docs/risk.md that `make pressure-backtest` writes."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.pressure.score import (
    RULES,
    Moment,
    Rule,
    Story,
    at_recall,
    base_rate_brier,
    brier,
    calibration,
    judged,
    our_brier,
    risk_above,
    score,
)

THRESHOLDS = (0.3, 0.5, 0.7)
_KINDS_NOTE = (
    "Brier score of each kind, lower is better. *Base rate* is somebody who knows how often it comes in this kind and "
    "always says that."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Stories that are judged together."""

    title: str
    horizon_seconds: float
    stories: tuple[Story, ...]


def report(parts: Sequence[Part]) -> str:
    """Return the section as Markdown."""
    return "\n\n".join(_part(each) for each in parts if judged(each.stories)) + "\n"


def _part(part: Part) -> str:
    moments = judged(part.stories)
    head = (
        f"{len(part.stories)} stories, {len(moments):,} moments at which a risk was said and what came within "
        f"{part.horizon_seconds:.0f} s is known."
    )
    return "\n\n".join(
        (f"### {part.title}", head, _kinds(part), _calibration(moments), _rules(part.stories), _equal(part.stories))
    )


def _kinds(part: Part) -> str:
    lines = [
        _KINDS_NOTE,
        "",
        "| kind | moments | preemption came | said on average | ours | base rate | usage > 90% | preempted lately |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    kinds = list(dict.fromkeys(story.kind for story in part.stories))
    for name in (*kinds, None):
        moments = judged([story for story in part.stories if name is None or story.kind == name])
        if not moments:
            continue
        came = sum(bool(moment.came) for moment in moments) / len(moments)
        said = sum(moment.risk_ratio or 0.0 for moment in moments) / len(moments)
        scores = (
            our_brier(moments),
            base_rate_brier(moments),
            _brier(moments, RULES["usage > 90%"]),
            _brier(moments, RULES["preempted lately"]),
        )
        figures = " | ".join(f"{each:.3f}" for each in scores)
        lines.append(f"| {name or '**all**'} | {len(moments)} | {came:.0%} | {said:.0%} | {figures} |")
    return "\n".join(lines)


def _brier(moments: Sequence[Moment], rule: Rule) -> float:
    return brier(moments, lambda moment: float(rule(moment)))


def _calibration(moments: Sequence[Moment]) -> str:
    bins = calibration(moments)
    names = " | ".join(f"{place / 10:.1f}-{(place + 1) / 10:.1f}" for place in range(len(bins)))
    cells = " | ".join(f"{came / count:.0%} of {count}" if count else "-" for count, came, _ in bins)
    return "\n".join(
        (
            "Calibration: the share of moments after which a preemption did come.",
            "",
            f"| risk said | {names} |",
            "| --- |" + " --- |" * len(bins),
            f"| came | {cells} |",
        )
    )


def _rules(stories: Sequence[Story]) -> str:
    lines = [
        "| rule | recall | false alarms | precision | Brier | onsets foretold | lead, median | lead, p10 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    ours = {f"risk > {threshold}": risk_above(threshold) for threshold in THRESHOLDS}
    for name, rule in (ours | RULES).items():
        found = score(stories, rule)
        lines.append(
            f"| {name} | {_percent(found.recall_ratio)} | {_percent(found.false_ratio)} | "
            f"{_percent(found.precision_ratio)} | {found.brier:.3f} | {found.onsets_recalled} of {found.onsets} | "
            f"{_seconds(found.lead_median_seconds)} | {_seconds(found.lead_p10_seconds)} |"
        )
    return "\n".join(lines)


def _equal(stories: Sequence[Story]) -> str:
    moments = judged(stories)
    lines = ["At the threshold at which the risk recalls at least as much as a rule does:", ""]
    for name, rule in RULES.items():
        theirs = score(stories, rule)
        if not theirs.recall_ratio or theirs.false_ratio is None:
            continue
        ours = at_recall(moments, theirs.recall_ratio)
        if ours is None:
            continue
        lines.append(
            f"- {name} recalls {theirs.recall_ratio:.0%} with {theirs.false_ratio:.1%} false alarms; ours, above "
            f"{_threshold(ours[0])}, with {ours[1]:.1%}{'' if ours[1] <= theirs.false_ratio else ': not better'}"
        )
    return "\n".join(lines)


def _threshold(risk: float) -> str:
    return f"{risk:.3g}" if risk < 0.9995 else f"1 - {1 - risk:.0e}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} s"


def parts_of(title: str, horizon_seconds: float, stories: Sequence[Story]) -> list[Part]:
    """Return the halves of these stories, the one that may not have shaped the model first."""
    return [
        Part(
            title=f"{title}, {half}",
            horizon_seconds=horizon_seconds,
            stories=tuple(story for story in stories if story.half == half),
        )
        for half in ("held out", "tuning")
    ]
