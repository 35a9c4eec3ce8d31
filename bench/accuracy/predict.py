"""The one place where the bench asks the estimator."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from advisor.defaults import Device
from advisor.estimate import Estimate, exactly
from advisor.flags import parse_flags
from advisor.gpus import find_gpu
from advisor.model import parse_model
from advisor.plan import plan_engine
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Declined:
    """The estimator says why it does not answer."""

    reason: str


def predict(row: Deployment, config: Mapping[str, Any]) -> Prediction | Declined:
    """Return the estimate from configuration, flags, release and GPU alone."""
    try:
        spec = parse_model(config)
        flags = parse_flags(["vllm", "serve", row.model, *row.args], environment=row.environment)
        total = exactly(row.gpu_total_gib * GIB) if row.gpu_total_gib else find_gpu(row.gpu).cuda_total
        plan = plan_engine(
            spec,
            flags,
            version=parse_version(row.vllm_version),
            device=Device(name=row.gpu, memory_bytes=int(total.expected)),
            total=total,
        )
    except ValueError as problem:
        return Declined(reason=str(problem).splitlines()[0])
    memory = plan.memory
    assert memory is not None
    return Prediction(
        budget_bytes=memory.budget_bytes,
        weights=memory.weights,
        kv_cache=memory.kv_cache,
        activation_peak=memory.activation_peak,
        non_torch=memory.non_torch,
        cuda_graphs=memory.cuda_graphs,
        kv_tokens=plan.kv_tokens,
        kv_bytes_per_token=plan.layout.bytes_per_token,
        verdict=plan.verdict,
    )


def parameter_count(config: Mapping[str, Any]) -> int | None:
    """Return the parameters of a model, None where the estimator does not know its kind."""
    try:
        return parse_model(config).num_parameters
    except ValueError:
        return None
