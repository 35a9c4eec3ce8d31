"""Metrics of the public contract that no fact declares yet.

Dashboards and rules may already name them; their panels say "not reported" until the advisor fills them in. Once a
fact declares one, its line here goes (a test says so), and this file with the last line.
"""

from advisor.facts import PREFIX, Kind, Metric

_ENGINE = ("engine", "model_name", "dp_rank")


def _engine(field: str, help_text: str, *labels: str) -> Metric:
    return Metric(
        name=f"{PREFIX}_engine_{field}",
        kind=Kind.LEVEL,
        help=help_text,
        labels=(*_ENGINE, *labels),
        subject="engine",
        field=field,
    )


PENDING: tuple[Metric, ...] = (
    _engine("preemption_risk_ratio", "Probability that the scheduler preempts a request soon."),
    _engine("time_to_kv_exhaustion_seconds", "Time until the KV cache is full; +Inf when that is not in sight."),
    _engine(
        "restart_fits", "1 when this engine would start again with its flags on the memory that is free of others."
    ),
    _engine("restart_shortfall_bytes", "Memory that a restart would lack; 0 when it fits."),
    _engine("recommended_max_num_seqs", "The max-num-seqs that observed load asks for."),
    _engine("recommended_max_num_seqs_lower", "Lower bound of the recommendation."),
    _engine("recommended_max_num_seqs_upper", "Upper bound of the recommendation."),
    _engine("advice_confidence_ratio", "How far the observed load supports the recommendation."),
    _engine(
        "recommendation_info",
        "Always 1: a flag, what it is set to, what it should be, and what binds it.",
        "flag",
        "current",
        "recommended",
        "binding",
    ),
)
