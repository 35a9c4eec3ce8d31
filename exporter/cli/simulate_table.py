"""What settings would do, as tables for people, at most 80 columns wide."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from advisor.scenario import Scenario, Trace
from advisor.whatif import Outcome


def show(about: Mapping[str, object], found: Sequence[Outcome], notes: Sequence[str]) -> None:
    """Print one line a setting."""
    console = Console(highlight=False, emoji=False)
    console.print(f"{about['load']} on {about['engine']}", markup=False, style="bold")
    console.print(f"step times: {about['step_times']}", markup=False, style="dim")
    console.print(_load_table(found))
    console.print(_latency_table(found))
    for note in notes:
        console.print(note, markup=False, style="yellow")


def _setting_columns(table: Table, found: Sequence[Outcome]) -> tuple[str, ...]:
    """Add a column for each flag that differs between settings, max-num-seqs always; return their fields."""
    fields = {"kv_tokens": "KV tokens", "max_num_batched_tokens": "batched", "max_num_seqs": "seqs"}
    chosen = tuple(
        field for field in fields if field == "max_num_seqs" or len({getattr(outcome, field) for outcome in found}) > 1
    )
    for field in chosen:
        table.add_column(fields[field], justify="right", no_wrap=True)
    return chosen


def _table(title: str, found: Sequence[Outcome]) -> tuple[Table, tuple[str, ...]]:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), title=title, title_justify="left", title_style="dim")
    return table, _setting_columns(table, found)


def _load_table(found: Sequence[Outcome]) -> Table:
    table, chosen = _table("again: tokens computed once more after a preemption", found)
    for name in ("tok/s", "run", "peak", "wait", "peak", "KV", "preempt", "again", "steps"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in found:
        table.add_row(
            *(str(getattr(each, field)) for field in chosen),
            f"{each.output_tokens_per_second:.1f}",
            f"{each.mean_running:.1f}",
            str(each.peak_running),
            f"{each.mean_waiting:.1f}",
            str(each.peak_waiting),
            f"{each.mean_kv_usage_ratio:.0%}",
            str(each.preemptions),
            str(each.recomputed_tokens),
            str(each.steps),
        )
    return table


def _latency_table(found: Sequence[Outcome]) -> Table:
    table, chosen = _table(
        "seconds, median where nothing else is said; gap: between two tokens; stall: the longest", found
    )
    for name in ("queue", "TTFT", "p95", "gap", "p99", "stall", "total", "p95"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in found:
        first, gap, total = each.time_to_first_token_seconds, each.inter_token_seconds, each.end_to_end_seconds
        table.add_row(
            *(str(getattr(each, field)) for field in chosen),
            _seconds(each.queue_seconds.p50),
            _seconds(first.p50),
            _seconds(first.p95),
            _seconds(gap.p50) if gap else "-",
            _seconds(gap.p99) if gap else "-",
            _seconds(each.longest_stall_seconds),
            _seconds(total.p50),
            _seconds(total.p95),
        )
    return table


def _seconds(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 100 else f"{value:.0f}"


def show_scenarios(played: Sequence[tuple[Scenario, Trace]]) -> None:
    """Print one line a scripted run."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("scenario", overflow="fold")
    for name in ("requests", "finished", "steps", "preemptions", "recomputed", "peak KV"):
        table.add_column(name, justify="right", no_wrap=True)
    for scenario, trace in played:
        blocks = scenario.config.num_gpu_blocks - 1
        least_free = min((step.batch.num_free_blocks for step in trace.steps if step.batch), default=blocks)
        table.add_row(
            scenario.name,
            str(len(scenario.arrivals)),
            str(len(trace.finished)),
            str(len(trace.steps)),
            str(trace.num_preemptions),
            str(trace.recomputed_tokens),
            f"{1 - least_free / blocks:.0%}",
        )
    Console(highlight=False, emoji=False).print(table, markup=False)
