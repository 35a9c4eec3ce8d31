"""docs/accuracy.md: the scores in words and tables, the same bytes for the same estimator."""

from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import Any

from advisor.estimate import Estimate
from advisor.units import GIB
from bench.accuracy.compare import OURS, Compared
from bench.accuracy.predict import Declined, Prediction
from bench.accuracy.rows import Figure, Reported, gpu_class, release
from bench.accuracy.score import Scored, Summary, Target, population, quantile, summary, targets


def report(rows: Sequence[Scored], *, peers: Sequence[Compared], packages_said: str, examples: Sequence[str]) -> str:
    """Return the whole page."""
    stated = population(rows, utilization_stated=True)
    defaulted = population(rows, utilization_stated=False)
    lines = [
        "# How accurate the estimator is",
        "",
        "Written by `make accuracy`; do not edit. The estimator is asked about real vLLM servers whose start-up logs",
        "are public, from the model's configuration, the flags, the release and the GPU alone, and its answer is held",
        "against what vLLM then reported. The deployments stand as facts with their sources in",
        "`bench/accuracy/deployments.jsonl`, the models' geometry in `bench/accuracy/models.jsonl`.",
        "",
        "- Weights and KV cache are those of one GPU; KV errors are shares of the budget (utilization x CUDA-visible",
        "  total) and, where the cache is more than a tenth of the budget, of the KV cache itself.",
        "- The sources (a repository, or a thread of vLLM's own tracker) are halved by a hash of their names; the half",
        "  that holds the one source that prints every part of the memory is the fitted one, and the measured",
        "  constants of `advisor/calibration/overheads.py` rest on it. The other half was held out, with two",
        "  exceptions that were set with its rows in view: the non-torch memory of several ranks on cards other than",
        "  Hopper, and the bound on the layers' work of old kernels on a T4. For those rows the held-out figures are",
        "  not blind.",
        "- What follows from vLLM's sources (layouts, which buffers stand at the peak, start-up checks) was read there",
        "  and then tried on every row of both halves.",
        "- A row is left out only for what is not known of it, never for its error; every row left out is listed at",
        "  the end with the reason. Figures that the estimator declines count as asked and not answered.",
        "- Percentiles are observed values, without interpolation.",
        "",
        "## Result",
        "",
        "Rows whose `--gpu-memory-utilization` was given.",
        "",
        *_targets(stated),
        "",
        *_answered(stated),
        "",
        "Rows without it, where that release's default was in effect, apart from the targets:",
        "",
        *_groups(defaulted, (("all", lambda _: "all"),)),
        "",
        "Rows with doubts, for what they are worth and apart from the targets:",
        "",
        *_doubtful(rows),
        "",
        *_wrong(rows),
        "## By kind of model, GPU, release and weights",
        "",
        *_groups(
            stated,
            (
                ("kind of model", lambda row: row.family),
                ("GPU", lambda row: gpu_class(row.row)),
                ("release", lambda row: release(row.row)),
                ("weights", lambda row: row.weight_format),
            ),
        ),
        "",
        "## Parts of the memory",
        "",
        "Median absolute error in GiB where a log prints the part, and the KV cache's error over the budget were the",
        "weights known exactly.",
        "",
        *_parts(rows),
        "",
        "## Beside others",
        "",
        "The same rows, asked of the five articles that this project grew from, of the single formula that most",
        "calculators use, of weights x 1.2, and of packages. Formulas are told the exact parameter count and the exact",
        f"card. {packages_said}",
        "",
        *_peers(peers),
        "",
        *examples,
        "",
        "## Every row that counts",
        "",
        "GiB of one GPU. *tokens*: the log prints tokens or blocks only, converted by the estimate's bytes per token.",
        "",
        *_rows(rows),
        "",
        "## Rows and figures left out",
        "",
        *_left_out(rows),
    ]
    return "\n".join(lines).rstrip() + "\n"


def machine_rows(rows: Sequence[Scored]) -> list[dict[str, Any]]:
    """Return every answered row as plain figures, for whoever looks for the cause of an error."""
    return [
        {
            "id": row.row.id,
            "half": row.row.half,
            "family": row.family,
            "gpu": gpu_class(row.row),
            "release": release(row.row),
            "counts_for": [figure for figure in row.left_out if row.judges(figure)],
            "kv_error_share_of_budget": row.kv_error_share_of_budget,
            "kv_error_with_reported_weights": row.kv_error_with_reported_weights,
            "kv_error_ratio": row.kv_error_ratio,
            "kv_within_bounds": row.kv_within_bounds,
            "weights_error_ratio": row.weights_error_ratio,
            "verdict": row.verdict,
            "budget_gib": said.budget_bytes / GIB,
            "kv_reported_gib": None if row.kv_reported_bytes is None else row.kv_reported_bytes / GIB,
            "said_gib": {part: getattr(said, part).expected / GIB for part in _PARTS},
            "reported_gib": {part: getattr(row.row.reported, f"{part}_gib") for part in _PRINTED},
        }
        for row in rows
        if (said := row.prediction) is not None
    ]


_PARTS = ("weights", "activation_peak", "non_torch", "cuda_graphs", "kv_cache")
_PRINTED = ("weights", "activation_peak", "non_torch", "cuda_graphs", "cuda_graphs_estimated", "kv")


def _percent(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{100 * value:.{digits}f}%"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.2f}%"


def _gib(value: float | None) -> str:
    return "-" if value is None else f"{value / GIB:.2f}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [
        "| " + " | ".join(heads) + " |",
        "|" + "|".join("---" for _ in heads) + "|",
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def _halves(rows: Sequence[Scored]) -> tuple[Summary, Summary, Summary]:
    fitted = [row for row in rows if row.row.half == "fitted"]
    held_out = [row for row in rows if row.row.half == "held out"]
    return summary(rows), summary(fitted), summary(held_out)


def _targets(rows: Sequence[Scored]) -> list[str]:
    def cell(target: Target) -> str:
        return "-" if target.met is None else f"{_percent(target.value)}, {'met' if target.met else 'not met'}"

    columns = [targets(part) for part in _halves(rows)]
    return _table(
        ("figure", "target", "all", "fitted half", "held-out half"),
        [(first.name, first.wanted, *map(cell, (first, *rest))) for first, *rest in zip(*columns, strict=True)],
    )


def _answered(rows: Sequence[Scored]) -> list[str]:
    def of(name: str, pick: Callable[[Summary], tuple[int, int]]) -> tuple[str, ...]:
        return (name, *("{} of {}".format(*pick(part)) for part in _halves(rows)))

    return _table(
        ("rows answered", "all", "fitted half", "held-out half"),
        [
            of("KV cache", lambda part: (part.kv_answered, part.kv_rows)),
            of("of these, over a tenth of the budget", lambda part: (part.kv_ratio_rows, part.kv_answered)),
            of("weights", lambda part: (part.weights_answered, part.weights_rows)),
            of(
                "verdicts",
                lambda part: (part.verdict_right + part.verdict_wrong + part.verdict_too_close, part.verdict_rows),
            ),
            of("verdicts too close to call", lambda part: (part.verdict_too_close, part.verdict_rows)),
        ],
    )


_Error = Callable[[Scored], float | None]
"""What a part of a row errs by; None where it is not printed."""


def _wrong(rows: Sequence[Scored]) -> list[str]:
    wrong = [row for row in rows if row.judges("verdict") and row.verdict == "wrong"]
    if not wrong:
        return ["**No verdict was confident and wrong.**", ""]
    lines = [f"**{len(wrong)} confident and wrong:**", ""]
    for row in wrong:
        happened = "started" if row.row.reported.started else f"did not start ({row.row.reported.error})"
        assert row.prediction is not None
        lines.append(f"- {_link(row)}: said {row.prediction.verdict.replace('_', ' ')}, but it {happened}")
    return [*lines, ""]


def _groups(rows: Sequence[Scored], groupings: Sequence[tuple[str, Callable[[Scored], str]]]) -> list[str]:
    heads = ("KV rows", "KV median", "KV p90", "KV / KV median", "weights rows", "weights median")
    lines: list[str] = []
    for name, key in groupings:
        groups: dict[str, list[Scored]] = {}
        for row in rows:
            if any(row.judges(figure) for figure in row.left_out):
                groups.setdefault(key(row), []).append(row)
        lines += _table(
            (name, *heads, "bounds hold", "width", "verdicts right"),
            [
                (
                    label,
                    f"{part.kv_answered} of {part.kv_rows}",
                    _percent(part.kv_share_median),
                    _percent(part.kv_share_p90),
                    _percent(part.kv_ratio_median),
                    f"{part.weights_answered} of {part.weights_rows}",
                    _percent(part.weights_median),
                    f"{part.bounds_hold} of {part.bounds_rows}",
                    _percent(part.bounds_width_median, 1),
                    f"{part.verdict_right} of {part.verdict_rows}",
                )
                for label, part in ((label, summary(groups[label])) for label in sorted(groups, key=_natural))
            ],
        )
        lines.append("")
    return lines[:-1]


_KINDS_OF_DOUBT = (
    ("only how the GPU or the release is known", frozenset({"gpu", "version"})),
    ("forks and builds between releases", frozenset({"gpu", "version", "build", "utilization"})),
    ("another checkpoint's geometry", frozenset({"gpu", "version", "build", "utilization", "variant"})),
)


def _doubtful(rows: Sequence[Scored]) -> list[str]:
    left = [row for row in rows if row.row.doubts and row.kv_error_share_of_budget is not None]
    lines = []
    for name, allowed in _KINDS_OF_DOUBT:
        these = [row for row in left if {doubt.of for doubt in row.row.doubts} <= allowed]
        left = [row for row in left if row not in these]
        for half in ("fitted", "held out"):
            part = [row for row in these if row.row.half == half]
            errors = [abs(row.kv_error_share_of_budget or 0.0) for row in part]
            known = [abs(each) for row in part if (each := row.kv_error_with_reported_weights) is not None]
            lines.append(
                (
                    name,
                    half,
                    str(len(part)),
                    _percent(median(errors) if errors else None),
                    _percent(quantile(errors, 0.9) if errors else None),
                    str(len(known)),
                    _percent(median(known) if known else None),
                )
            )
    heads = ("doubt", "half", "KV rows", "KV median", "KV p90", "weights printed", "KV median were the weights known")
    return _table(heads, lines)


def _natural(label: str) -> tuple[tuple[int, int | str], ...]:
    return tuple((0, int(word)) if word.isdigit() else (1, word) for word in label.replace(".", " ").split())


def _parts(rows: Sequence[Scored]) -> list[str]:
    def part(name: str, errors: _Error, unit: str) -> tuple[str, ...]:
        cells = [name]
        for half in ("fitted", "held out"):
            sizes = [
                abs(error)
                for row in rows
                if row.row.half == half and row.judges("kv") and (error := errors(row)) is not None
            ]
            middle = median(sizes) if sizes else None
            cells += [str(len(sizes)), _percent(middle) if unit == "%" else "-" if middle is None else f"{middle:.2f}"]
        return tuple(cells)

    def gap(reported: Callable[[Reported], float | None], said: Callable[[Prediction], Estimate]) -> _Error:
        def error(row: Scored) -> float | None:
            printed = reported(row.row.reported)
            if row.prediction is None or printed is None:
                return None
            return said(row.prediction).expected / GIB - printed

        return error

    return _table(
        ("part", "rows, fitted", "error", "rows, held out", "error"),
        [
            part(
                "activation peak, GiB",
                gap(lambda log: log.activation_peak_gib, lambda said: said.activation_peak),
                "GiB",
            ),
            part("outside PyTorch, GiB", gap(lambda log: log.non_torch_gib, lambda said: said.non_torch), "GiB"),
            part(
                "CUDA graphs as captured, GiB",
                gap(lambda log: log.cuda_graphs_gib, lambda said: said.cuda_graphs),
                "GiB",
            ),
            part("KV cache, weights known", lambda row: row.kv_error_with_reported_weights, "%"),
        ],
    )


def _peers(peers: Sequence[Compared]) -> list[str]:
    heads = ("estimator", "rows", "weights median", "p90", "KV over budget median", "p90", "tokens median", "p90")
    return _table(
        (*heads, "verdicts right"),
        [
            (
                f"**{peer.name}**" if peer.name == OURS else peer.name,
                str(peer.answered),
                _percent(peer.weights_median, 1),
                _percent(peer.weights_p90, 1),
                _percent(peer.kv_share_median, 1),
                _percent(peer.kv_share_p90, 1),
                _percent(peer.tokens_median, 1),
                _percent(peer.tokens_p90, 1),
                f"{peer.verdicts_right} of {peer.verdicts}" if peer.verdicts else "-",
            )
            for peer in peers
        ],
    )


def _link(row: Scored) -> str:
    return f"[{row.row.id}]({row.row.source})"


def _rows(rows: Sequence[Scored]) -> list[str]:
    lines = []
    for row in rows:
        if not any(row.judges(figure) for figure in row.left_out):
            continue
        reported, said = row.row.reported, row.prediction
        if said is None:
            reason = row.answer.reason if isinstance(row.answer, Declined) else "no configuration at hand"
            lines.append((_link(row), row.row.half, *("-" for _ in range(9)), f"declined: {reason}".replace("|", "/")))
            continue
        weights, kv = row.judges("weights"), row.judges("kv")
        verdict = row.judges("verdict")
        lines.append(
            (
                _link(row),
                row.row.half + ("" if row.row.utilization_stated else ", default utilization"),
                _gib(said.weights.expected) if weights else "-",
                f"{reported.weights_gib:.2f}" if weights else "-",
                _signed(row.weights_error_ratio) if weights else "-",
                _gib(said.kv_cache.expected) if kv else "-",
                (_gib(row.kv_reported_bytes) + (" *tokens*" if row.kv_from_tokens else "")) if kv else "-",
                _signed(row.kv_error_share_of_budget) if kv else "-",
                _signed(row.kv_error_ratio) if kv else "-",
                ("yes" if row.kv_within_bounds else "**no**") if kv and row.kv_within_bounds is not None else "-",
                said.verdict.replace("_", " ") if verdict else "-",
                (("started" if reported.started else str(reported.error).replace("_", " ")) if verdict else "-"),
            )
        )
    heads = ("row", "half", "weights said", "reported", "error", "KV said", "reported", "of budget", "of KV")
    return _table((*heads, "in bounds", "verdict", "happened"), lines)


def _left_out(rows: Sequence[Scored]) -> list[str]:
    names: dict[Figure, str] = {"kv": "KV", "weights": "weights", "verdict": "verdict"}
    lines = []
    for row in rows:
        reasons: dict[str, list[str]] = {}
        for figure, why in row.left_out.items():
            for reason in why:
                reasons.setdefault(reason, []).append(names[figure])
        if reasons:
            lines.append(f"- {_link(row)}: " + "; ".join(f"{', '.join(of)}: {why}" for why, of in reasons.items()))
    return lines
