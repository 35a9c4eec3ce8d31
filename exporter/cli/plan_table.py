"""A plan as a table for people, at most 80 columns wide."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from advisor.estimate import Estimate, Origin
from advisor.plan import EnginePlan
from advisor.suggest import Suggestion
from advisor.units import GIB
from exporter.planning import Answer

_VERDICTS = {
    "fits": ("green", "fits"),
    "does_not_fit": ("red", "does not fit"),
    "too_close_to_call": ("yellow", "too close to call"),
}


def show(found: Answer, *, suggestions: Sequence[Suggestion] = (), typical_tokens: int | None = None) -> None:
    """Print a plan."""
    console = Console(highlight=False, emoji=False, soft_wrap=False)
    plan = found.plan
    version = ".".join(map(str, found.version))
    gpus = f"{plan.gpus_needed} x " if plan.gpus_needed > 1 else ""
    console.print(f"[bold]{found.flags.model}[/] on {gpus}{found.device.name}, vLLM {version}")
    console.print(f"{found.spec.architecture}, {found.spec.num_parameters / 1e9:,.2f} B parameters")
    console.print()
    if plan.memory is not None:
        console.print(_memory(plan))
    console.print(_capacity(plan, typical_tokens))
    colour, words = _VERDICTS[plan.verdict]
    spare = _margin(plan)
    console.print(f"[{colour} bold]{words}[/]{spare}")
    if plan.error is not None:
        console.print(f"vLLM would say: {plan.error}", markup=False)
    for note in plan.notes:
        console.print(f"note: {note}", markup=False)
    if suggestions:
        console.print()
        console.print(_suggestions(suggestions))
        console.print()
        for line in _reasons(suggestions):
            console.print(line, style="dim", markup=False)


def _margin(plan: EnginePlan) -> str:
    margin = plan.margin
    if margin is None or plan.binding == "flags":
        return ""
    word = "to spare" if margin.expected >= 0 else "short"
    if plan.verdict == "fits":
        bounds = ""
    elif margin.upper < 0:
        bounds = f" ({-margin.upper / GIB:,.2f} to {-margin.lower / GIB:,.2f})"
    else:
        bounds = f" ({margin.lower / GIB:+,.2f} to {margin.upper / GIB:+,.2f})"
    return f", {abs(margin.expected) / GIB:,.2f} GiB {word}{bounds}, by the check of {_CHECKS[plan.binding]}"


_CHECKS = {
    "cache": "the cache against one request of max-model-len",
    "free memory": "free memory at start against the budget",
    "loading": "the weights against free memory",
    "profile run": "the start-up profile against free memory",
    "warm-up": "graphs against what the budget leaves free",
}


def _memory(plan: EnginePlan) -> Table:
    memory = plan.memory
    assert memory is not None
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="one GPU", title_justify="left", title_style="bold")
    table.add_column("")
    table.add_column("GiB", justify="right")
    table.add_column("at least", justify="right", style="dim")
    table.add_column("at most", justify="right", style="dim")
    table.add_column("", style="dim", overflow="fold")
    share = f"{plan.flags.gpu_memory_utilization:g} x {memory.total_bytes / GIB:,.2f} GiB that CUDA shows"
    _row(table, "budget", memory.budget, share)
    graphs = "subtracted from the budget" if memory.graphs_in_budget else "held beside the budget"
    for name, part, remark in (
        ("weights", memory.weights, ""),
        ("activation peak", memory.activation_peak, "of the largest step"),
        ("non-torch", memory.non_torch, "workspaces, NCCL"),
        ("CUDA graphs", memory.cuda_graphs, graphs if memory.cuda_graphs.upper else "none captured"),
        (
            "KV cache",
            memory.kv_cache,
            "what the budget leaves" if plan.flags.kv_cache_memory_bytes is None else "given",
        ),
    ):
        _row(table, name, part, remark)
    table.add_section()
    _row(table, "start-up peak", memory.startup_peak, "with the CUDA context, once all is allocated")
    return table


def _row(table: Table, name: str, part: Estimate, remark: str) -> None:
    exact = part.lower == part.upper
    bounds = ("", "") if exact else (f"{part.lower / GIB:,.2f}", f"{part.upper / GIB:,.2f}")
    told = "" if part.origin is Origin.ESTIMATED or exact else str(part.origin)
    table.add_row(name, f"{part.expected / GIB:,.2f}", *bounds, ", ".join(filter(None, (remark, told))))


def _capacity(plan: EnginePlan, typical_tokens: int | None) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column("")
    table.add_column("", justify="right")
    table.add_column("", style="dim")
    tokens, layout = plan.kv_tokens, plan.layout
    table.add_row("KV cache size, tokens", f"{tokens.expected:,.0f}", _between(tokens))
    table.add_row(
        f"requests of {plan.flags.max_model_len:,} tokens at once",
        f"{plan.full_context_concurrency.expected:,.2f}",
        _between(plan.full_context_concurrency, "max-model-len", digits=2),
    )
    if typical_tokens is not None:
        typical = plan.concurrency_at(typical_tokens)
        table.add_row(
            f"requests of {typical_tokens:,} tokens at once",
            f"{typical.expected:,.0f}",
            _between(typical, "--typical-tokens"),
        )
    table.add_row("bytes a token a GPU", f"{layout.bytes_per_token:,.0f}", f"{layout.block_size} tokens a block")
    table.add_row("max-num-seqs", f"{plan.flags.max_num_seqs:,}", plan.flags.origins["max_num_seqs"])
    return table


def _between(estimate: Estimate, remark: str = "", *, digits: int = 0) -> str:
    bounds = f"{estimate.lower:,.{digits}f} to {estimate.upper:,.{digits}f}"
    return ", ".join(filter(None, ("" if estimate.lower == estimate.upper else bounds, remark)))


def _suggestions(suggestions: Sequence[Suggestion]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), title="one change at a time", title_justify="left")
    table.add_column("flag", no_wrap=True)
    for name in ("now", "instead"):  # a GPU's name may take several lines
        table.add_column(name, justify="right", overflow="fold", min_width=7)
    for name in ("tokens", "+/-"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", style="dim")
    for each in suggestions:
        table.add_row(
            each.flag.replace("_", "-"),
            _spelled(each.current),
            _spelled(each.suggested),
            f"{each.capacity_tokens:,.0f}",
            f"{each.tokens_gained:+,.0f}",
            _VERDICTS[each.verdict][1] + (", the most" if each.is_largest else ""),
        )
    return table


def _reasons(suggestions: Sequence[Suggestion]) -> list[str]:
    """Return why each change does what it does, a line for a flag, or for a value where its values differ in that."""
    reasons: dict[str, dict[str, Suggestion]] = {}
    for each in suggestions:
        reasons.setdefault(each.flag, {}).setdefault(each.why, each)
    return [
        f"{flag.replace('_', '-')}{f' {_spelled(first.suggested)}' if len(whys) > 1 else ''}: {why}"
        for flag, whys in reasons.items()
        for why, first in whys.items()
    ]


def _spelled(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
