"""What settings would do, as a picture."""

from collections.abc import Callable, Sequence

from advisor.whatif import Outcome
from exporter.chart import Chart, Panel, Series

_AXES = {
    "max_num_seqs": "max-num-seqs",
    "max_num_batched_tokens": "max-num-batched-tokens",
    "kv_tokens": "KV tokens",
}


def chart_of(found: Sequence[Outcome], *, title: str) -> Chart:
    """Return throughput, latency, preemptions and use over the flag that was varied.

    Of several flags the one with the most values goes across; the others name the lines.
    """
    axis = max(_AXES, key=lambda field: len({getattr(each, field) for each in found}))
    groups: dict[str, list[Outcome]] = {}
    for each in found:
        groups.setdefault(_group(each, axis, found), []).append(each)

    def panel(name: str, unit: str, figure: Callable[[Outcome], float]) -> Panel:
        lines = tuple(
            Series(name=group, points=tuple((float(getattr(each, axis)), figure(each)) for each in members))
            for group, members in groups.items()
        )
        return Panel(title=name, horizontal=_AXES[axis], unit=unit, series=lines)

    return Chart(
        title=title,
        panels=(
            panel("output tokens/s", "", lambda each: each.output_tokens_per_second),
            panel("end to end, p95, s", "", lambda each: each.end_to_end_seconds.p95),
            panel("first token, p95, s", "", lambda each: each.time_to_first_token_seconds.p95),
            panel("longest stall, s", "", lambda each: each.longest_stall_seconds),
            panel("preemptions", "", lambda each: float(each.preemptions)),
            panel("KV in use, mean", "ratio", lambda each: each.mean_kv_usage_ratio),
        ),
    )


def _group(each: Outcome, axis: str, found: Sequence[Outcome]) -> str:
    """Name the settings other than the one that goes across, where they differ."""
    told = [
        f"{_AXES[field]} {getattr(each, field):,}"
        for field in _AXES
        if field != axis and len({getattr(other, field) for other in found}) > 1
    ]
    return ", ".join(told)
