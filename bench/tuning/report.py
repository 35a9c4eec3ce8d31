"""The runs as a section of docs/tuning.md: the aims, the advice beside the best, and every setting."""

import statistics
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from advisor.tuning import SeqsAdvice
from bench.tuning.campaign import OBSERVED_ROUNDS, SWEEP
from bench.tuning.judge import (
    BY_MAX_MODEL_LEN,
    MOST_PREEMPTED_RATIO,
    POLICY,
    WRONG_SETTINGS,
    Cell,
    Cells,
    Regret,
    advice,
    best,
    by_mean_length,
    cells,
    gain_shown,
    paired_ratios,
    regret,
    spreads,
)
from bench.tuning.runs import Run
from bench.tuning.workloads import BLOCK_TOKENS, BLOCKS, CAPACITY_TOKENS, MAX_MODEL_LEN, Workload, workloads

_MOST_MISSING = 3
"""Settings of the sweep that a workload may lack and still be judged."""
_GPU_STEP_SECONDS = 0.03
"""For comparison only: what a step of a batch takes on many a GPU."""
_MEDIAN_STEPS_AIM, _WORST_STEPS_AIM, _STALL_AIM = 0.03, 0.08, 2.0
_HEAD = """\
A real vLLM {versions} on the CPU, a tiny model of random weights, {blocks} blocks of {block_tokens} tokens
({capacity:,} tokens of KV), context {context:,}. {count} workloads of {least} to {most} requests, each observed once at
{wrong} by the daemon's own code (`advise` and `remember`, a page every tenth of a second) and then served at the
settings below, with a fresh start of the server for each setting.
Advice is learnt from other requests of the same source than those it is judged by. The only threshold that differs from
those shipped is the time under load that advice waits for, {busy:.0f} s instead of ten minutes: what is observed lasts
{fewest:,.0f} to {longest:,.0f} engine steps, {fewest_minutes:.0f} to {longest_minutes:.0f} minutes of a server that
takes {step_ms:.0f} ms for one. Nearly all requests have come before the first are answered, but where a workload
says otherwise.

The figures rest on {runs} runs ({failed} more in which not every request was answered are left out), made {when};
{each}. `bench/tuning/runs.jsonl` has the raw counts of each, and `python -m bench.tuning report` writes this section
from it. The machine was shared and busy: counts are judged, time is not.

**Steps** are engine steps for the same finished work. They hold for one setting against another only where the clients
kept the server busy: **running** is the mean number of requests that ran, weighed by steps, of each run, and where it
is far below its neighbours' the machine starved the clients and the engine stepped for few. The **best** setting is the
one with the fewest steps of those that preempt at most {preempted:.0%} of their requests. A **stall** is the most
engine steps in which an answer that had begun got no token (the longest of all runs; where nobody was preempted there
is none, and what clients saw is their own slowness). **Computed again** are tokens scheduled beyond what prompts and
outputs need, over all tokens.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """One piece of advice, and how it did."""

    workload: str
    start: int
    seen: Run
    """The run that was observed."""
    said: SeqsAdvice | None
    served: Cell | None
    """What came of the value advised; None where it was not run."""
    left: Cell | None
    """What came of the value it was seen at."""
    regret: Regret | None
    """None where what was advised was not run, or too little of the sweep was."""
    left_alone: Regret | None
    gain_shown: bool | None
    """None where nothing was to be changed, or it was not measured."""

    @property
    def changes(self) -> bool:
        """Whether another value was advised."""
        return self.said is not None and self.said.recommended != self.start


def verdicts(runs: Sequence[Run], found: Mapping[str, Cells]) -> list[Verdict]:
    """Judge what is advised for each workload from each wrong setting."""
    judged = []
    for name, each in found.items():
        for start in WRONG_SETTINGS:
            seen = [run for run in runs if (run.workload, run.max_num_seqs, run.repetition) == (name, start, 0)]
            if not seen:
                continue
            said = advice(runs, name, start)
            number = said.recommended if said is not None else start
            changed = number != start
            judged.append(
                Verdict(
                    workload=name,
                    start=start,
                    seen=seen[-1],
                    said=said,
                    served=each.get(number),
                    left=each.get(start),
                    regret=regret(each, number) if _is_swept(each) else None,
                    left_alone=regret(each, start) if _is_swept(each) else None,
                    gain_shown=gain_shown(each, current=start, recommended=number) if changed else None,
                )
            )
    return judged


def report(runs: Sequence[Run]) -> str:
    """Return the section in Markdown."""
    loads = workloads("judged")
    measured = {name: each for name in loads if (each := cells(runs, name))}
    if not measured:
        return "No run has been made yet."
    found = {name: each for name, each in measured.items() if _is_swept(each)}
    judged = verdicts(runs, measured)
    if not any(each.served is not None for each in judged):
        return "Nothing can be judged yet: what was advised has not been served."
    beside = "### Beside the usual formulas\n\n" + _formulas(judged, found, loads)
    parts = [
        _wrapped(_head(runs, loads, measured) + _left_out(loads, measured)),
        "### The aims\n\n" + _aims(judged),
        "### What was advised\n\n" + _advised(judged, measured),
        "### What the change did\n\n" + _changed(judged, measured),
        *([beside] if found else []),
        "### Noise\n\n" + _noise(measured),
        "### Every setting\n\n" + "\n\n".join(_every(name, loads[name], each) for name, each in measured.items()),
    ]
    return "\n\n".join(parts)


def _head(runs: Sequence[Run], loads: Mapping[str, Workload], found: Mapping[str, Cells]) -> str:
    used = [run for run in runs if run.complete]
    counts = [len(cell.runs) for each in found.values() for cell in each.values()]
    sizes = [len(load.requests) for load in loads.values()]
    observed = [run.steps for run in used if run.repetition == 0]
    days = sorted({run.began.partition("T")[0] for run in used})
    return _HEAD.format(
        versions=" and ".join(sorted({run.vllm_version or "of unknown version" for run in used})),
        blocks=BLOCKS,
        block_tokens=BLOCK_TOKENS,
        capacity=CAPACITY_TOKENS,
        context=MAX_MODEL_LEN,
        count=len(loads),
        least=min(sizes),
        most=max(sizes),
        wrong=" and at ".join(f"{each}{_times(OBSERVED_ROUNDS[each])}" for each in WRONG_SETTINGS),
        busy=POLICY.advice_least_busy_seconds,
        runs=len(used),
        failed=len(runs) - len(used),
        fewest=min(observed),
        longest=max(observed),
        fewest_minutes=min(observed) * _GPU_STEP_SECONDS / 60,
        step_ms=1000 * _GPU_STEP_SECONDS,
        longest_minutes=max(observed) * _GPU_STEP_SECONDS / 60,
        when=" to ".join(dict.fromkeys((days[0], days[-1]))),
        each=_runs_each(counts),
        preempted=MOST_PREEMPTED_RATIO,
    ).rstrip()


def _times(rounds: int) -> str:
    return f" (its requests {rounds} times over)" if rounds > 1 else ""


def _is_swept(found: Cells) -> bool:
    """Tell whether enough of the sweep was run: the best of a few settings is not the best."""
    return len(set(SWEEP) - found.keys()) <= _MOST_MISSING


def _left_out(loads: Iterable[str], measured: Mapping[str, Cells]) -> str:
    """Say which workloads have no best, and from which others settings of the sweep are missing."""
    names = [name for name in loads if name not in measured or not _is_swept(measured[name])]
    text = ""
    if names:
        text += f"\n\nNo best is known, because too few settings of the sweep were run, of: {', '.join(names)}."
    missing = {
        name: sorted(set(SWEEP) - each.keys())
        for name, each in measured.items()
        if name not in names and not each.keys() >= set(SWEEP)
    }
    if missing:
        lines = "; ".join(f"{name}: {', '.join(map(str, settings))}" for name, settings in missing.items())
        text += f"\n\nSettings of the sweep that were not run, so that the best is the best of the others: {lines}."
    return text


def _wrapped(text: str) -> str:
    paragraphs = text.split("\n\n")
    return "\n\n".join(textwrap.fill(each, 120, break_long_words=False, break_on_hyphens=False) for each in paragraphs)


def _runs_each(counts: Sequence[int]) -> str:
    """Say how many pairs of workload and setting have how many runs."""
    if min(counts) == max(counts):
        return f"{counts[0]} of each workload and setting"
    parts = [f"{counts.count(number)} have {number}" for number in sorted(set(counts), reverse=True)]
    return f"of {len(counts)} pairs of workload and setting {', '.join(parts)}"


def _aims(judged: Sequence[Verdict]) -> str:
    measured = [each.regret for each in judged if each.regret is not None]
    steps = [each.steps_ratio for each in measured]
    served = [each.served for each in judged if each.served is not None]
    over = [each.preempted_ratio for each in served if each.preempted_ratio > MOST_PREEMPTED_RATIO]
    changed = [each for each in judged if each.gain_shown is not None]
    shown = sum(bool(each.gain_shown) for each in changed)
    within = sum(each.stall_steps <= _STALL_AIM * each.best_stall_steps for each in measured)
    rows = []
    if measured:
        middle, worst = statistics.median(steps), max(steps)
        rows = [
            [
                "steps beyond the best, median",
                f"<= {_MEDIAN_STEPS_AIM:.0%}",
                f"{middle:+.1%}",
                middle <= _MEDIAN_STEPS_AIM,
            ],
            ["steps beyond the best, worst", f"<= {_WORST_STEPS_AIM:.0%}", f"{worst:+.1%}", worst <= _WORST_STEPS_AIM],
            [
                "longest stall within twice that of the best",
                "all",
                f"{within} of {len(measured)}",
                within == len(measured),
            ],
        ]
    rows += [
        [
            f"advised values that preempt more than {MOST_PREEMPTED_RATIO:.0%}",
            "none",
            f"{len(over)} of {len(served)}" + (f", at most {max(over):.1%}" if over else ""),
            not over,
        ],
    ]
    if changed:
        rows.append(
            [
                "changes advised whose gain every repetition shows",
                "all",
                f"{shown} of {len(changed)}",
                shown == len(changed),
            ]
        )
    text = _table(
        ["aim", "wanted", "measured", ""], [[*map(str, row[:3]), "met" if row[3] else "**missed**"] for row in rows]
    )
    if not measured:
        text += (
            "\n\nSteps beyond the best (aims: "
            f"{_MEDIAN_STEPS_AIM:.0%} median, {_WORST_STEPS_AIM:.0%} at worst) and stalls beside the best\n"
            "cannot be said: no sweep is complete."
        )
    elif len(measured) < len(judged):
        text += f"\n\n{len(measured)} of {len(judged)} are judged by the best: the others lack runs."
    return text + f"\n\n{len(served)} of {len(judged)} values advised were served."


def _advised(judged: Sequence[Verdict], found: Mapping[str, Cells]) -> str:
    rows = []
    for each in judged:
        swept = _is_swept(found[each.workload])
        least = best(found[each.workload]) if swept else None
        said = each.said
        if said is None:
            told = "nothing: too little was seen"
        elif said.recommended == each.start:
            told = f"leave it ({said.binding})"
        else:
            told = f"{said.recommended} ({said.lower} to {said.upper}, {said.binding})"
        rows.append(
            [
                each.workload,
                str(each.start),
                f"{each.seen.preempted_ratio:.1%}",
                told,
                str(least.max_num_seqs) if least else "none" if swept else "not swept",
                *_figures(each.regret, each.served),
                *_figures(each.left_alone, each.left)[:2],
                {True: "yes", False: "**no**", None: "-"}[each.gain_shown],
            ]
        )
    header = ["workload", "seen at", "preempted there", "advised", "best", "steps", "preempted", "stall"]
    header += ["left alone: steps", "preempted"]
    return (
        "Preempted there: of the requests that were observed. All else is of the requests to judge by: steps and\n"
        "stall are those beside the best. Gain shown: lowering preempted fewer in every repetition, and fewer by more\n"
        "than two standard deviations of such counts; raising took fewer steps in every repetition.\n\n"
        + _table([*header, "gain shown"], rows)
    )


_FIGURES: tuple[tuple[str, Callable[[Run], float | None]], ...] = (
    ("steps", lambda run: run.steps),
    ("engine CPU", lambda run: run.engine_cpu_seconds),
    ("output tokens/s", lambda run: run.output_tokens_per_second),
    ("p95 latency, steps", lambda run: run.latency_p95_steps),
    ("p95 latency, s", lambda run: run.latency_p95_seconds),
    ("p95 first token, s", lambda run: run.first_token_p95_seconds),
    ("p99 gap, s", lambda run: run.gap_p99_seconds),
)


def _changed(judged: Sequence[Verdict], found: Mapping[str, Cells]) -> str:
    rows = []
    for each in judged:
        if each.said is None or each.gain_shown is None:
            continue
        cells_of, current, recommended = found[each.workload], each.start, each.said.recommended
        before, after = cells_of[current], cells_of[recommended]
        ratios = [paired_ratios(cells_of, figure, current=current, recommended=recommended) for _, figure in _FIGURES]
        rows.append(
            [
                each.workload,
                f"{current} to {recommended}",
                f"{_preemptions(before)} to {_preemptions(after)}",
                *(_middle(ratio) for ratio in ratios),
            ]
        )
    if not rows:
        return "No change was advised that was served."
    return (
        "Preemptions of each run before and after; then what was counted with the value advised over what was counted\n"
        "with the one it was seen at, run by run of the same repetition: median and, in brackets, range. Steps and\n"
        "steps of latency are counts; seconds are those of a shared machine, and are there for the record.\n\n"
        + _table(["workload", "max-num-seqs", "preemptions", *(name for name, _ in _FIGURES)], rows)
    )


def _preemptions(cell: Cell) -> str:
    return "/".join(f"{run.preemptions:.0f}" for run in cell.runs)


def _middle(ratios: Sequence[float]) -> str:
    if not ratios:
        return "-"
    middle = f"{statistics.median(ratios):.2f}"
    return middle if len(ratios) == 1 else f"{middle} ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def _noise(found: Mapping[str, Cells]) -> str:
    every = [cell for each in found.values() for cell in each.values()]
    repeated = [cell for cell in every if len(cell.runs) >= 2]
    if not repeated:
        return "No setting was run twice, so nothing can be said of the noise."
    rows = []
    for name, figure in _FIGURES:
        spread = spreads(repeated, figure)
        if spread:
            rows.append([name, str(len(spread)), f"{statistics.median(spread):.1%}", f"{spread[-1]:.1%}"])
    shares = [[run.preempted_ratio for run in cell.runs] for cell in repeated]
    apart = sorted(100 * (max(each) - min(each)) for each in shares)
    return (
        "Largest over smallest figure of the same setting and requests, less 1, over the settings that were run more\n"
        "than once: what is less than this is not told apart. Preempted shares of requests lay "
        f"{statistics.median(apart):.1f}\npoints apart (median of {len(apart)}), {apart[-1]:.1f} at most.\n\n"
        + _table(["figure", "settings", "median", "largest"], rows)
    )


def _figures(each: Regret | None, cell: Cell | None) -> list[str]:
    if cell is None:
        return ["not run", "-", "-"]
    stall = f"{cell.stall_steps:,.0f}"
    return [
        f"{each.steps_ratio:+.1%}" if each is not None else "-",
        f"{cell.preempted_ratio:.1%}",
        f"{stall} / {each.best_stall_steps:,.0f}" if each is not None else stall,
    ]


def _formulas(judged: Sequence[Verdict], found: Mapping[str, Cells], loads: Mapping[str, Workload]) -> str:
    def line(name: str, figures: Iterable[Regret | None]) -> list[str]:
        known = [each for each in figures if each is not None]
        if not known:
            return [name, "0", "-", "-", "-", "-"]
        steps = [each.steps_ratio for each in known]
        over = [each.preempted_ratio for each in known if each.preempted_ratio > MOST_PREEMPTED_RATIO]
        return [
            name,
            str(len(known)),
            f"{statistics.median(steps):+.1%}",
            f"{max(steps):+.1%}",
            f"{len(over)} of {len(known)}" + (f", at most {max(over):.1%}" if over else ""),
            f"{max(each.stall_steps for each in known):,.0f}",
        ]

    def left(start: int) -> list[Regret | None]:
        return [each.left_alone for each in judged if each.start == start]

    rows = [
        line("advised", (each.regret for each in judged)),
        line(
            f"tokens / max-model-len ({BY_MAX_MODEL_LEN})", (regret(each, BY_MAX_MODEL_LEN) for each in found.values())
        ),
        line("tokens / mean length", (regret(each, by_mean_length(loads[name])) for name, each in found.items())),
        *(line(f"left at {start}", left(start)) for start in WRONG_SETTINGS),
    ]
    header = [
        "setting",
        "cases",
        "steps beyond the best: median",
        "worst",
        "more than 1% preempted",
        "longest stall, worst",
    ]
    return _table(header, rows) + "\n\nFewer steps than the best mean more preemptions than the best may have."


def _every(name: str, load: Workload, found: Cells) -> str:
    least = best(found) if _is_swept(found) else None
    columns: list[tuple[str, Callable[[Cell], str]]] = [
        ("max-num-seqs", lambda cell: f"{cell.max_num_seqs}" + (" (best)" if cell is least else "")),
        ("runs", lambda cell: str(len(cell.runs))),
        ("steps", lambda cell: f"{cell.steps:,.0f}"),
        ("least to most", _range),
        ("running", lambda cell: "/".join("-" if each is None else f"{each:.1f}" for each in cell.mean_running)),
        ("preempted", lambda cell: f"{cell.preempted_ratio:.1%}"),
        ("computed again", lambda cell: "-" if cell.recomputed_ratio is None else f"{cell.recomputed_ratio:.1%}"),
        ("stall, steps", lambda cell: f"{cell.stall_steps:,.0f}" if cell.stall_steps else "none"),
        ("engine CPU, s", lambda cell: f"{cell.engine_cpu_seconds:.1f}"),
    ]
    rows = [[text(cell) for _, text in columns] for cell in found.values()]
    mean = f"{len(load.requests)} requests of {load.mean_tokens:,.0f} tokens on average"
    return f"**{name}**: {load.what}; {mean}.\n\n" + _table([title for title, _ in columns], rows)


def _range(cell: Cell) -> str:
    steps = [run.steps for run in cell.runs]
    return f"{min(steps):,.0f} to {max(steps):,.0f}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
