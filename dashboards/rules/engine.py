"""Alerts about one engine: what its users feel first, what it will feel next, what is mis-sized last."""

from advisor.policy import Policy
from advisor.report import Severity
from dashboards.links import Board
from dashboards.rules.declarations import Alert, spoken

_HERE = "{{ $labels.engine }} ({{ $labels.model_name }}) watched by {{ $labels.instance }}"


def alerts(policy: Policy) -> tuple[Alert, ...]:
    """Return the alerts about engines."""
    return (*_symptoms(policy), *_ahead(policy), *_capacity(policy), _missized(policy))


def _symptoms(policy: Policy) -> tuple[Alert, ...]:
    return (
        Alert(
            name="HeadroomEngineDown",
            severity=Severity.CRITICAL,
            expr="headroom_engine_up == 0",
            hold="2m",
            summary="A vLLM engine does not answer.",
            description=f"{_HERE} has not answered for two minutes; headroom_engine_failing says why.",
            board=Board.ENGINE,
            panel="State",
        ),
        Alert(
            name="HeadroomEngineStalled",
            severity=Severity.CRITICAL,
            expr='headroom_engine_limiter{limiter="stalled"} == 1',
            hold="2m",
            summary="A vLLM engine has requests and produces no tokens.",
            description=f"{_HERE} has requests and has produced no token for more than "
            f"{spoken(policy.stalled_after_seconds)}. Its health endpoint may still answer.",
            board=Board.ENGINE,
            panel="Limited by",
        ),
        Alert(
            name="HeadroomEngineQueueGrows",
            severity=Severity.WARNING,
            expr="headroom_engine_requests_waiting > headroom_engine_requests_running"
            " and min_over_time(headroom_engine_requests_waiting[15m]) > 0"
            " and deriv(headroom_engine_requests_waiting[15m]) > 0",
            hold="10m",
            summary="Requests arrive faster than a vLLM engine serves them.",
            description=f"{{{{ $value | humanize }}}} requests wait at {_HERE}, more than run, and the queue has not "
            "been empty or shrinking for a quarter of an hour.",
            board=Board.ENGINE,
            panel="Running and waiting",
        ),
        Alert(
            name="HeadroomEnginePreempting",
            severity=Severity.WARNING,
            expr=f"60 * rate(headroom_engine_preemptions_total[10m]) > {60 * policy.preemptions_warning_per_second:g}",
            hold="10m",
            summary="A vLLM engine keeps preempting requests.",
            description=f"{_HERE} preempts {{{{ $value | humanize }}}} requests a minute: their work is done "
            "again. Lower max-num-seqs or give the KV cache more memory.",
            board=Board.ENGINE,
            panel="Preemptions a minute",
        ),
        Alert(
            name="HeadroomEngineRequestNeverFits",
            severity=Severity.WARNING,
            expr="headroom_engine_full_context_concurrency < 1",
            hold="5m",
            summary="A vLLM engine accepts requests that can never fit its KV cache.",
            description=f"The KV cache of {_HERE} holds {{{{ $value | humanizePercentage }}}} of one request of "
            "max-model-len. A longer request waits for ever and holds up those behind it.",
            board=Board.ADVICE,
            panel="Full contexts that fit",
        ),
    )


def _ahead(policy: Policy) -> tuple[Alert, ...]:
    return (
        Alert(
            name="HeadroomEngineKvFillsUp",
            severity=Severity.WARNING,
            expr=f"headroom_engine_time_to_kv_exhaustion_seconds < {policy.kv_exhaustion_warning_seconds:g}"
            f" and headroom_engine_preemption_risk_ratio >= {policy.preemption_risk_warning_ratio:g}",
            hold="1m",
            summary="A vLLM engine's KV cache is about to be full.",
            description=f"The KV cache of {_HERE} is full in {{{{ $value | humanizeDuration }}}}; then requests are "
            "preempted. Send new ones elsewhere if you can.",
            board=Board.ENGINE,
            panel="KV full in",
        ),
        Alert(
            name="HeadroomEngineWouldNotRestart",
            severity=Severity.WARNING,
            # Over five minutes, so that one look that was missed does not make the wait begin anew.
            expr="max_over_time(headroom_engine_restart_fits[5m]) == 0",
            hold="10m",
            summary="A vLLM engine would not start again.",
            description=f"If {_HERE} stopped now, it would not start again: others hold memory that it needs "
            "(headroom_engine_restart_shortfall_bytes says how much). Make room before the next deployment or crash.",
            board=Board.ENGINE,
            panel="Restart",
        ),
    )


def _capacity(policy: Policy) -> tuple[Alert, ...]:
    kept = 1 + policy.capacity_drop_warning_ratio
    return (
        Alert(
            name="HeadroomEngineCapacityBelowTheory",
            severity=Severity.WARNING,
            expr=f"headroom_engine_kv_capacity_gap_ratio < {policy.capacity_gap_warning_ratio:g}"
            " and headroom_engine_kv_capacity_tokens < headroom_engine_kv_theory_lower_tokens",
            hold="30m",
            summary="A vLLM engine holds fewer tokens than it should.",
            description=f"The KV cache of {_HERE} is {{{{ $value | humanizePercentage }}}} off what model, GPU and "
            "flags give, and below the lower bound: something else held memory when it started.",
            board=Board.ENGINE,
            panel="KV cache: used, capacity, theory",
        ),
        Alert(
            name="HeadroomEngineCapacityDropped",
            severity=Severity.WARNING,
            expr="headroom_engine_kv_capacity_tokens / max_over_time(headroom_engine_kv_capacity_tokens[1d])"
            f" < {kept:g}",
            hold="10m",
            summary="A vLLM engine came back with a smaller KV cache.",
            description=f"{_HERE} has {{{{ $value | humanizePercentage }}}} of the KV cache that it had within the "
            "last day, with the same model: fewer requests fit.",
            board=Board.ENGINE,
            panel="Capacity at each start (7 days)",
        ),
    )


def _missized(policy: Policy) -> Alert:
    seqs, advised = "headroom_engine_max_num_seqs", "headroom_engine_recommended_max_num_seqs"
    return Alert(
        name="HeadroomEngineMissized",
        severity=Severity.INFO,
        expr=f"({seqs} < {advised}_lower or {seqs} > {advised}_upper)"
        f" and headroom_engine_advice_confidence_ratio >= {policy.advice_confidence_ratio:g}",
        hold="1d",
        summary="A vLLM engine's max-num-seqs does not suit its load.",
        description=f"{_HERE} runs with max-num-seqs {{{{ $value | humanize }}}}; for a day observed load has "
        "supported another value. The advice has it, with its bounds.",
        board=Board.ADVICE,
        panel="max-num-seqs: recommended against configured",
    )
