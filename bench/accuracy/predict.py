"""The one place where the bench asks the estimator."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from advisor.capacity import engine_theory
from advisor.defaults import Device
from advisor.estimate import Estimate
from advisor.flags import parse_flags
from advisor.model import parse_model
from advisor.units import GIB
from advisor.versions import parse_version
from bench.accuracy.rows import Deployment

Verdict = Literal["fits", "does_not_fit", "too_close_to_call"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """What the estimator says of one deployment: bytes of the GPU that decides, tokens of the engine."""

    budget_bytes: float
    weights: Estimate
    kv_cache: Estimate
    activation_peak: Estimate
    non_torch: Estimate
    cuda_graphs: Estimate
    kv_tokens: Estimate
    kv_bytes_per_token: float
    """Of one GPU."""
    verdict: Verdict
    error: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Declined:
    """The estimator says why it does not answer."""

    reason: str


def predict(row: Deployment, config: Mapping[str, Any]) -> Prediction | Declined:
    """Return the estimate from configuration, flags, release and GPU alone."""
    try:
        spec = parse_model(config)
        flags = parse_flags(["vllm", "serve", row.model, *row.args], environment=row.environment)
        theory = engine_theory(
            spec,
            flags=flags,
            version=parse_version(row.vllm_version),
            device=Device(name=row.gpu, memory_bytes=round((row.gpu_total_gib or _TOTALS.get(row.gpu, 79.19)) * GIB)),
            files=None,
        )
    except ValueError as problem:
        return Declined(reason=str(problem).splitlines()[0])
    plan = theory.plan
    assert plan is not None
    return Prediction(
        budget_bytes=plan.budget_bytes,
        weights=plan.weights,
        kv_cache=plan.kv_cache,
        activation_peak=plan.activation_peak,
        non_torch=plan.non_torch,
        cuda_graphs=plan.cuda_graphs,
        kv_tokens=theory.kv_tokens,
        kv_bytes_per_token=theory.layout.bytes_per_token,
        verdict="fits" if theory.kv_tokens.expected >= theory.flags.max_model_len else "does_not_fit",
    )


def parameter_count(config: Mapping[str, Any]) -> int | None:
    """Return the parameters of a model, None where the estimator does not know its kind."""
    try:
        return parse_model(config).num_parameters
    except ValueError:
        return None


_TOTALS: Mapping[str, float] = {}
