"""The arithmetic of the scores: deployments beside their estimates, then sets of them summarised."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from advisor.units import GIB
from bench.accuracy.predict import Declined, Prediction, Verdict
from bench.accuracy.rows import Deployment, Figure, configuration_of, family, reasons_against, text_part, weight_format

VerdictScore = Literal["right", "wrong", "too close"]

RELATIVE_FROM_SHARE = 0.1
"""KV caches smaller than this share of the budget have no relative error: their size is that of the others' error."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """One deployment beside its estimate."""

    row: Deployment
    family: str
    weight_format: str
    left_out: Mapping[Figure, tuple[str, ...]]
    """Of each figure that this row cannot judge, why."""
    answer: Prediction | Declined | None
    """None: no configuration at hand to ask about."""
    kv_reported_bytes: float | None = None
    """Of one GPU; where only tokens or blocks are printed, their bytes by the estimator's own layout."""
    kv_from_tokens: bool = False

    def judges(self, figure: Figure) -> bool:
        """Whether this row counts for a figure."""
        return not self.left_out[figure]

    @property
    def prediction(self) -> Prediction | None:
        """The estimate, None where it was declined or not asked."""
        return self.answer if isinstance(self.answer, Prediction) else None

    @property
    def kv_error_bytes(self) -> float | None:
        """Estimate minus report of the KV cache, bytes of one GPU."""
        if self.prediction is None or self.kv_reported_bytes is None:
            return None
        return self.prediction.kv_cache.expected - self.kv_reported_bytes

    @property
    def kv_error_share_of_budget(self) -> float | None:
        """Signed KV error over utilization x total."""
        error = self.kv_error_bytes
        return None if error is None or self.prediction is None else error / self.prediction.budget_bytes

    @property
    def kv_error_ratio(self) -> float | None:
        """Signed KV error over the reported KV cache, where that is over a tenth of the budget."""
        error, reported = self.kv_error_bytes, self.kv_reported_bytes
        if error is None or reported is None or self.prediction is None:
            return None
        return error / reported if reported > RELATIVE_FROM_SHARE * self.prediction.budget_bytes else None

    @property
    def kv_within_bounds(self) -> bool | None:
        """Whether the reported KV cache lies in the bounds, half the last printed digit allowed."""
        if self.prediction is None or self.kv_reported_bytes is None:
            return None
        kv = self.prediction.kv_cache
        return kv.lower - 0.005 * GIB <= self.kv_reported_bytes <= kv.upper + 0.005 * GIB

    @property
    def kv_bounds_width_ratio(self) -> float | None:
        """Width of the bounds over the reported KV cache."""
        if self.prediction is None or not self.kv_reported_bytes:
            return None
        return (self.prediction.kv_cache.upper - self.prediction.kv_cache.lower) / self.kv_reported_bytes

    @property
    def weights_error_ratio(self) -> float | None:
        """Signed weights error over the reported weights of one GPU."""
        reported = self.row.reported.weights_gib
        if self.prediction is None or reported is None:
            return None
        return self.prediction.weights.expected / (reported * GIB) - 1

    @property
    def kv_error_with_reported_weights(self) -> float | None:
        """Signed KV error as a share of the budget, were the weights known: what the other parts err by."""
        error, reported = self.kv_error_bytes, self.row.reported.weights_gib
        if error is None or reported is None or self.prediction is None:
            return None
        return (error + self.prediction.weights.expected - reported * GIB) / self.prediction.budget_bytes

    @property
    def verdict(self) -> VerdictScore | None:
        """How the fit verdict did."""
        if self.prediction is None or self.row.reported.started is None:
            return None
        return verdict_score(self.prediction.verdict, started=self.row.reported.started)


def verdict_score(said: Verdict, *, started: bool) -> VerdictScore:
    """Compare a verdict with what happened."""
    if said == "too_close_to_call":
        return "too close"
    return "right" if (said == "fits") == started else "wrong"


def score(
    rows: Iterable[Deployment],
    configs: Mapping[str, Mapping[str, Any]],
    predict: Callable[[Deployment, Mapping[str, Any]], Prediction | Declined],
) -> tuple[Scored, ...]:
    """Ask the estimator about every row."""
    return tuple(_scored(row, configuration_of(row, configs), predict) for row in rows)


def _scored(
    row: Deployment,
    config: Mapping[str, Any] | None,
    predict: Callable[[Deployment, Mapping[str, Any]], Prediction | Declined],
) -> Scored:
    figures: tuple[Figure, ...] = ("kv", "weights", "verdict")
    left_out = {figure: reasons_against(row, figure) for figure in figures}
    if config is None:
        return Scored(row=row, family="not known", weight_format="not known", left_out=left_out, answer=None)
    kind = family(config)
    if row.reported.kv_gib is None and kind in HYBRIDS and not left_out["kv"]:
        left_out["kv"] = ("only tokens are printed, which are a derived figure for hybrids",)
    answer = predict(row, config)
    reported, from_tokens = None, False
    if isinstance(answer, Prediction):
        reported, from_tokens = reported_kv_bytes(row, answer)
    return Scored(
        row=row,
        family=kind,
        weight_format=weight_format(row, config),
        left_out=left_out,
        answer=answer,
        kv_reported_bytes=reported,
        kv_from_tokens=from_tokens,
    )


HYBRIDS = frozenset({"hybrid with states", "sliding-window hybrid"})
"""Families whose printed tokens are not the pool over one token's bytes."""

V0_BLOCK_TOKENS = 16
"""Tokens of a block where ``--block-size`` is not given and only blocks are printed."""


def reported_kv_bytes(row: Deployment, prediction: Prediction) -> tuple[float | None, bool]:
    """Return the KV bytes of one GPU that vLLM reported, and whether they were converted from tokens.

    A log that prints tokens or blocks alone is converted by the estimate's own bytes per token, so that its row judges
    the memory plan and not the layout. So is one with pipeline stages: the GiB printed are the first rank's, the tokens
    those of the rank with the least room, which is what the estimate is of.
    """
    staged = row.reported.kv_tokens is not None and "--pipeline-parallel-size" in row.args
    if row.reported.kv_gib is not None and not staged:
        return (row.reported.kv_gib * GIB if row.reported.kv_gib > 0 else None), False
    tokens: float | None = row.reported.kv_tokens
    if tokens is None and row.reported.kv_blocks is not None:
        block = int(row.args[row.args.index("--block-size") + 1]) if "--block-size" in row.args else V0_BLOCK_TOKENS
        tokens = row.reported.kv_blocks * block
    if tokens is None or prediction.kv_tokens.expected <= 0:
        return None, False
    return tokens * prediction.kv_cache.expected / prediction.kv_tokens.expected, True


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least ``share`` of the values do not exceed (no interpolation)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """What a set of rows says; None where no row of the set can say it."""

    kv_rows: int
    kv_answered: int
    kv_share_median: float | None
    kv_share_p90: float | None
    kv_ratio_rows: int
    kv_ratio_median: float | None
    kv_ratio_p90: float | None
    weights_rows: int
    weights_answered: int
    weights_median: float | None
    weights_p90: float | None
    verdict_rows: int
    verdict_right: int
    verdict_too_close: int
    verdict_wrong: int
    bounds_rows: int
    bounds_hold: int
    bounds_width_median: float | None


def summary(rows: Sequence[Scored]) -> Summary:
    """Summarise a set of rows; each figure over the rows that can judge it."""
    kv = [row for row in rows if row.judges("kv")]
    shares = _sizes(row.kv_error_share_of_budget for row in kv)
    ratios = _sizes(row.kv_error_ratio for row in kv)
    widths = _sizes(row.kv_bounds_width_ratio for row in kv)
    held = [row.kv_within_bounds for row in kv if row.kv_within_bounds is not None]
    weights = [row for row in rows if row.judges("weights")]
    weight_errors = _sizes(row.weights_error_ratio for row in weights)
    verdicts = [row.verdict for row in rows if row.judges("verdict")]
    return Summary(
        kv_rows=len(kv),
        kv_answered=len(shares),
        kv_share_median=median(shares) if shares else None,
        kv_share_p90=quantile(shares, 0.9) if shares else None,
        kv_ratio_rows=len(ratios),
        kv_ratio_median=median(ratios) if ratios else None,
        kv_ratio_p90=quantile(ratios, 0.9) if ratios else None,
        weights_rows=len(weights),
        weights_answered=len(weight_errors),
        weights_median=median(weight_errors) if weight_errors else None,
        weights_p90=quantile(weight_errors, 0.9) if weight_errors else None,
        verdict_rows=len(verdicts),
        verdict_right=verdicts.count("right"),
        verdict_too_close=verdicts.count("too close"),
        verdict_wrong=verdicts.count("wrong"),
        bounds_rows=len(held),
        bounds_hold=held.count(True),
        bounds_width_median=median(widths) if widths else None,
    )


def _sizes(values: Iterable[float | None]) -> list[float]:
    return [abs(value) for value in values if value is not None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A figure, what it should reach, and what it is."""

    name: str
    wanted: str
    value: float | None
    met: bool | None
    """None: nothing to judge by."""


def targets(result: Summary) -> tuple[Target, ...]:
    """Hold a summary against what the estimator is to reach."""

    def at_most(name: str, limit: float, value: float | None) -> Target:
        return Target(name=name, wanted=f"≤ {limit:.1%}", value=value, met=None if value is None else value <= limit)

    def at_least(name: str, limit: float, part: int, whole: int) -> Target:
        value = part / whole if whole else None
        return Target(name=name, wanted=f"≥ {limit:.0%}", value=value, met=None if value is None else value >= limit)

    return (
        at_most("KV error over the budget, median", 0.005, result.kv_share_median),
        at_most("KV error over the budget, p90", 0.02, result.kv_share_p90),
        at_most("KV error over the KV cache, median", 0.01, result.kv_ratio_median),
        at_most("KV error over the KV cache, p90", 0.05, result.kv_ratio_p90),
        at_most("weights error, median", 0.005, result.weights_median),
        at_least("fit verdicts right", 0.97, result.verdict_right, result.verdict_rows),
        Target(
            name="fit verdicts confident and wrong",
            wanted="none",
            value=result.verdict_wrong / result.verdict_rows if result.verdict_rows else None,
            met=result.verdict_wrong == 0 if result.verdict_rows else None,
        ),
        at_least("KV bounds hold", 0.90, result.bounds_hold, result.bounds_rows),
        at_most("KV bounds' width over the KV cache, median", 0.06, result.bounds_width_median),
    )


def population(rows: Iterable[Scored], *, utilization_stated: bool) -> tuple[Scored, ...]:
    """Return the rows whose utilization was given, or those where the release's default was in effect."""
    return tuple(row for row in rows if row.row.utilization_stated == utilization_stated)


def max_model_len(row: Deployment, config: Mapping[str, Any]) -> int:
    """Return the context length that a row asks for, the configuration's where it asks for none."""
    if "--max-model-len" in row.args:
        return int(row.args[row.args.index("--max-model-len") + 1])
    return int(text_part(config).get("max_position_embeddings", 2048))
