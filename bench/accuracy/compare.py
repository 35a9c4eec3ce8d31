"""The peers' answers on the rows that the estimator is judged by."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from advisor.units import GIB
from bench.accuracy import packages
from bench.accuracy.peers import FORMULAS, Case, PeerAnswer, case_of
from bench.accuracy.rows import configuration_of
from bench.accuracy.score import HYBRIDS, Scored, VerdictScore, quantile, verdict_score

OURS = "vllm-headroom"


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """One peer on all rows; None where it has no word for a figure."""

    name: str
    answered: int
    weights_median: float | None
    weights_p90: float | None
    kv_share_median: float | None
    kv_share_p90: float | None
    tokens_median: float | None
    tokens_p90: float | None
    verdicts_right: int
    verdicts: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A row that every peer is asked about."""

    scored: Scored
    case: Case
    config: Mapping[str, Any]


def askable(
    rows: Sequence[Scored], configs: Mapping[str, Mapping[str, Any]], parameters: Mapping[str, int]
) -> tuple[Asked, ...]:
    """Return the judged rows in the calculators' terms; those whose parameters cannot be counted are not asked."""
    asked = []
    for each in rows:
        config = configuration_of(each.row, configs)
        if (
            config is None
            or each.prediction is None
            or each.row.geometry is None
            or each.row.geometry not in parameters
        ):
            continue
        if not (each.judges("kv") or each.judges("weights") or each.judges("verdict")):
            continue
        utilization = (
            float(each.row.args[each.row.args.index("--gpu-memory-utilization") + 1])
            if each.row.utilization_stated
            else 0.9
        )
        case = case_of(
            each.row,
            config,
            parameters=parameters[each.row.geometry],
            total_bytes=each.prediction.budget_bytes / utilization,
        )
        asked.append(Asked(scored=each, case=case, config=config))
    return tuple(asked)


def formula_peers(asked: Sequence[Asked]) -> tuple[Compared, ...]:
    """Score every formula."""
    return tuple(compared(name, [(each, formula(each.case)) for each in asked]) for name, formula in FORMULAS.items())


def package_peers(asked: Sequence[Asked], python: Path) -> tuple[tuple[Compared, ...], dict[str, str]]:
    """Score the packages that ``python`` has, and say their versions; none where it has none.

    accelerate answers for weights only; hf-mem's weights are the sum of the checkpoint's headers, which are not at
    hand, so it answers for the KV cache only, over what a budget leaves beside exactly known weights.
    """
    questions = [
        {
            "model": each.scored.row.geometry,
            "config": each.config,
            "dtype": {4: "float32", 2: "bfloat16", 1: "int8", 0.5: "int4"}[each.case.weight_bytes_per_parameter],
            "kv_cache_dtype": "fp8" if each.case.kv_element_bytes == 1 else "auto",
            "max_model_len": each.case.max_model_len,
        }
        for each in asked
    ]
    done = subprocess.run(  # noqa: S603 - the interpreter is the caller's own
        [python, packages.__file__], input=json.dumps(questions), capture_output=True, text=True, check=True
    )
    said = json.loads(done.stdout)
    found = []
    for name in said["versions"]:
        pairs = []
        for each, answers in zip(asked, said["answers"], strict=True):
            answer = _package_answer(each, answers[name])
            if answer is not None:
                pairs.append((each, answer))
        found.append(compared(f"{name} {said['versions'][name]}", pairs))
    return tuple(found), dict(said["versions"])


def _package_answer(each: Asked, said: Mapping[str, Any]) -> PeerAnswer | None:
    case = each.case
    if "weights_bytes" in said:
        share = said["weights_bytes"] / case.gpus
        return PeerAnswer(weights_bytes=share, kv_bytes=case.budget_bytes - share)
    if "kv_bytes" in said:
        return PeerAnswer(
            kv_bytes=case.budget_bytes - case.weights_bytes / case.gpus,
            bytes_per_token=said["kv_bytes"] / case.max_model_len,
        )
    return None


def ourselves(asked: Sequence[Asked]) -> Compared:
    """Score the estimator by the same arithmetic."""
    pairs = []
    for each in asked:
        prediction = each.scored.prediction
        assert prediction is not None
        tokens = prediction.kv_tokens.expected
        per_token = prediction.kv_cache.expected * each.case.gpus / tokens if tokens else None
        pairs.append(
            (
                each,
                PeerAnswer(
                    weights_bytes=prediction.weights.expected,
                    kv_bytes=prediction.kv_cache.expected,
                    bytes_per_token=per_token,
                ),
            )
        )
    verdicts = [each.scored.verdict for each in asked if each.scored.judges("verdict")]
    return replace(compared(OURS, pairs), verdicts_right=verdicts.count("right"), verdicts=len(verdicts))


def compared(name: str, pairs: Sequence[tuple[Asked, PeerAnswer]]) -> Compared:
    """Score one peer's answers."""
    weights, shares, tokens = [], [], []
    verdicts: list[VerdictScore] = []
    for each, answer in pairs:
        scored, reported = each.scored, each.scored.row.reported
        if scored.judges("weights") and answer.weights_bytes is not None and reported.weights_gib is not None:
            weights.append(abs(answer.weights_bytes / (reported.weights_gib * GIB) - 1))
        if scored.judges("kv") and answer.kv_bytes is not None and scored.kv_reported_bytes is not None:
            shares.append(abs(answer.kv_bytes - scored.kv_reported_bytes) / each.case.budget_bytes)
            said = answer.tokens(each.case.gpus)
            if said is not None and reported.kv_tokens is not None and scored.family not in HYBRIDS:
                tokens.append(abs(said / reported.kv_tokens - 1))
        fits = answer.fits(each.case)
        if scored.judges("verdict") and fits is not None and reported.started is not None:
            verdicts.append(verdict_score("fits" if fits else "does_not_fit", started=reported.started))
    return Compared(
        name=name,
        answered=len(pairs),
        weights_median=median(weights) if weights else None,
        weights_p90=quantile(weights, 0.9) if weights else None,
        kv_share_median=median(shares) if shares else None,
        kv_share_p90=quantile(shares, 0.9) if shares else None,
        tokens_median=median(tokens) if tokens else None,
        tokens_p90=quantile(tokens, 0.9) if tokens else None,
        verdicts_right=verdicts.count("right"),
        verdicts=len(verdicts),
    )
