"""A load test as tables for people, at most 80 columns wide."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from advisor.loadtest import Knee, Level, Quantity
from advisor.percentiles import Percentiles


def show(levels: Sequence[Level], *, knee: Knee | None, max_num_seqs: int | None, notes: Sequence[str]) -> None:
    """Print what the levels came to, and the knee of a ramp."""
    console = Console(highlight=False, emoji=False)
    if len(levels) > 1:
        console.print(_ramp(levels))
        console.print("ms unless said otherwise; run, wait and KV as the server's metrics had them", style="dim")
    elif levels:
        _one(console, levels[0], max_num_seqs)
    else:
        console.print("No request was sent.")
    if knee is not None:
        console.print(knee.sentence, markup=False, style="bold")
    for note in notes:
        console.print(note, markup=False, style="yellow")


def _ramp(levels: Sequence[Level]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("users", "ok", "tok/s", "a user", "TTFT", "p95", "gap", "p99", "total s", "run", "wait", "KV", "pre"):
        table.add_column(name, justify="right", no_wrap=True)
    for level in levels:
        first, gap, total = level.time_to_first_token_seconds, level.inter_token_seconds, level.end_to_end_seconds
        speed, seen = level.output_tokens_per_second_per_user, level.seen
        table.add_row(
            str(level.users),
            _share(level.success_ratio),
            f"{level.output_tokens_per_second:.1f}",
            f"{speed.p50:.1f}" if speed else "-",
            _ms(first.p50 if first else None),
            _ms(first.p95 if first else None),
            _ms(gap.p50 if gap else None),
            _ms(gap.p99 if gap else None),
            f"{total.p50:.2f}" if total else "-",
            _mean(seen.running if seen else None),
            _mean(seen.waiting if seen else None),
            _share(seen.kv_usage_ratio.mean if seen and seen.kv_usage_ratio else None),
            _count(seen.preemptions if seen else None),
        )
    return table


def _one(console: Console, level: Level, max_num_seqs: int | None) -> None:
    seen = level.seen
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column("")
    facts.add_column("", justify="right")
    facts.add_column("", style="dim")
    reasons = ", ".join(f"{count} {reason}" for reason, count in level.failures)
    cut_off = f"{level.cut_off} cut off" if level.cut_off else ""
    facts.add_row(
        "requests that succeeded",
        _share(level.success_ratio),
        ", ".join(filter(None, (f"{level.completed} of {level.completed + level.failed}", reasons, cut_off))),
    )
    speed = level.output_tokens_per_second_per_user
    facts.add_row("output tokens a second", f"{level.output_tokens_per_second:,.1f}", "in all")
    if speed:
        facts.add_row("", f"{speed.p50:,.1f}", f"a user, median; {speed.mean:,.1f} on average")
    facts.add_row("requests a second", f"{level.requests_per_second:,.2f}", f"{level.duration_seconds:,.1f} s in all")
    if seen is not None:
        for name, quantity in (("running", seen.running), ("waiting", seen.waiting)):
            if quantity is not None:
                limit = f", max-num-seqs {max_num_seqs}" if name == "running" and max_num_seqs else ""
                facts.add_row(name, f"{quantity.mean:.1f}", f"on average, {quantity.peak:.0f} at most{limit}")
        if seen.kv_usage_ratio is not None:
            peak = f"on average, {seen.kv_usage_ratio.peak:.0%} at most"
            facts.add_row("KV cache in use", f"{seen.kv_usage_ratio.mean:.0%}", peak)
        if seen.preemptions is not None:
            facts.add_row("preemptions", f"{seen.preemptions:.0f}", "")
    console.print(facts)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("milliseconds", no_wrap=True)
    for name in ("mean", "p50", "p90", "p95", "p99", "max"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, found in (
        ("queueing (server)", seen.queue_seconds if seen else None),
        ("time to first token", level.time_to_first_token_seconds),
        ("between tokens", level.inter_token_seconds),
        ("end to end", level.end_to_end_seconds),
    ):
        if found is not None:
            mean, *shares = (_ms(value) for value in _figures(found))
            # The server books queueing in buckets: their upper bounds are all that is known.
            at_most = "≤" if name.startswith("queueing") else ""
            table.add_row(name, mean, *(at_most + share for share in shares))
    console.print(table)


def _figures(found: Percentiles) -> tuple[float, ...]:
    return found.mean, found.p50, found.p90, found.p95, found.p99, found.max


def _ms(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.1f}" if seconds < 0.1 else f"{seconds * 1000:.0f}"


def _share(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.0%}"


def _mean(quantity: Quantity | None) -> str:
    return "-" if quantity is None else f"{quantity.mean:.1f}"


def _count(number: float | None) -> str:
    return "-" if number is None else f"{number:.0f}"
