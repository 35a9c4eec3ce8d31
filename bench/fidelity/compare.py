"""Two accounts of the same load side by side: what the server did and what the simulation says it would."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One number twice."""

    name: str
    real: float
    simulated: float
    allowed_ratio: float | None
    """How far they may lie apart, as a share of the real one; None: not judged."""
    spread: tuple[float, float] | None = None
    """Least and most of several real runs."""

    @property
    def off_ratio(self) -> float:
        """By how much the simulation is off."""
        if self.real == 0:
            return 0.0 if self.simulated == 0 else float("inf")
        return self.simulated / self.real - 1

    @property
    def good(self) -> bool:
        """Whether that is near enough.

        A handful of preemptions may differ by two: that is chance, as from one run of the server to the next. Of the
        peak the server's gauge, looked at a few times a second, may have missed two.
        """
        if self.allowed_ratio is None or abs(self.off_ratio) <= self.allowed_ratio:
            return True
        more = self.simulated - self.real
        return (self.name == "preemptions" and abs(more) <= 2) or (self.name == "running, peak" and 0 <= more <= 2)


def figures(bench: Mapping[str, Any], simulation: Mapping[str, Any]) -> tuple[Figure, ...]:
    """Compare the JSON of ``bench`` with that of ``simulate``, one level with one setting."""
    (level,), (setting,) = bench["levels"], simulation["settings"]
    seen, shown = level["seen"], setting["shown"]
    return (
        Figure(name="requests completed", real=level["completed"], simulated=setting["requests"], allowed_ratio=0.0),
        Figure(
            name="output tokens", real=level["output_tokens"], simulated=setting["output_tokens"], allowed_ratio=0.0
        ),
        Figure(name="engine steps", real=seen["steps"], simulated=setting["steps"], allowed_ratio=0.05),
        Figure(
            name="running, mean of steps",
            real=seen["running"]["mean_per_step"],
            simulated=shown["mean_running_per_step"],
            allowed_ratio=0.05,
        ),
        Figure(name="running, peak", real=seen["running"]["peak"], simulated=shown["peak_running"], allowed_ratio=0.05),
        Figure(
            name="KV usage, mean of steps",
            real=seen["kv_usage_ratio"]["mean_per_step"],
            simulated=shown["mean_kv_usage_ratio_per_step"],
            allowed_ratio=0.05,
        ),
        Figure(
            name="running, mean over time",
            real=seen["running"]["mean"],
            simulated=shown["mean_running"],
            allowed_ratio=0.05,
        ),
        Figure(
            name="KV usage, mean over time",
            real=seen["kv_usage_ratio"]["mean"],
            simulated=shown["mean_kv_usage_ratio"],
            allowed_ratio=0.05,
        ),
        Figure(name="preemptions", real=seen["preemptions"], simulated=setting["preemptions"], allowed_ratio=0.2),
        Figure(
            name="end to end p95, s",
            real=level["end_to_end_seconds"]["p95"],
            simulated=setting["end_to_end_seconds"]["p95"],
            allowed_ratio=0.15,
        ),
        Figure(
            name="first token p95, s",
            real=level["time_to_first_token_seconds"]["p95"],
            simulated=setting["time_to_first_token_seconds"]["p95"],
            allowed_ratio=None,
        ),
    )


def mean_of(runs: Sequence[Sequence[Figure]]) -> tuple[Figure, ...]:
    """Return the means of several runs, with the real ones' spread: the order in which requests get in differs."""
    return tuple(
        replace(
            same[0],
            real=sum(each.real for each in same) / len(same),
            simulated=sum(each.simulated for each in same) / len(same),
            spread=(min(each.real for each in same), max(each.real for each in same)),
        )
        for same in zip(*runs, strict=True)
    )


def table(found: Sequence[Figure]) -> Iterator[str]:
    """Yield a comparison as lines of Markdown."""
    yield "| figure | vLLM | least to most | simulated | off by | aim |"
    yield "|---|---:|---:|---:|---:|---|"
    for each in found:
        aim = "-" if each.allowed_ratio is None else f"{each.allowed_ratio:.0%}{'' if each.good else ', missed'}"
        between = " to ".join(_spelled(value) for value in each.spread or ())
        figures = f"{_spelled(each.real)} | {between} | {_spelled(each.simulated)} | {each.off_ratio:+.1%}"
        yield f"| {each.name} | {figures} | {aim} |"


def _spelled(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.3f}" if value < 1 else f"{value:,.1f}"
