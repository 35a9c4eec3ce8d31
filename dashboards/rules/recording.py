"""Recording rules: what is asked for often, over long times, or by an autoscaler. Dashboards and alerts need none."""

from dashboards.rules.declarations import Recording

_ENGINE = "instance, engine, dp_rank"

RECORDINGS: tuple[Recording, ...] = (
    # Low-water marks over months cost too much to compute from raw samples.
    Recording(
        record="instance_gpu:headroom_gpu_memory_slack_bytes:min1h",
        expr="min_over_time(headroom_gpu_memory_slack_bytes[1h])",
    ),
    Recording(
        record="instance_gpu:headroom_gpu_oom_risk_ratio:max1h",
        expr="max_over_time(headroom_gpu_oom_risk_ratio[1h])",
    ),
    Recording(
        record="instance_engine:headroom_engine_kv_headroom_tokens:min5m",
        expr="min_over_time(headroom_engine_kv_headroom_tokens[5m])",
    ),
    Recording(
        record="instance_engine:headroom_engine_requests_running:max1h",
        expr="max_over_time(headroom_engine_requests_running[1h])",
    ),
    Recording(
        record="instance_engine:headroom_engine_preemptions:rate5m",
        expr="rate(headroom_engine_preemptions_total[5m])",
    ),
    # Numerator and denominator apart: a mean of ratios is no ratio.
    Recording(
        record="model_name:headroom_engine_kv_used_per_capacity:ratio",
        expr=f"sum without ({_ENGINE}) (headroom_engine_kv_used_tokens)"
        f" / sum without ({_ENGINE}) (headroom_engine_kv_capacity_tokens)",
    ),
    # For autoscalers, one series a model.
    Recording(
        record="model_name:headroom_engine_request_headroom:sum",
        expr=f"sum without ({_ENGINE}) (headroom_engine_request_headroom)",
    ),
    Recording(
        record="model_name:headroom_engine_requests_waiting:sum",
        expr=f"sum without ({_ENGINE}) (headroom_engine_requests_waiting)",
    ),
    Recording(
        record="model_name:headroom_engine_up:count",
        # A server counts once, with however many data-parallel ranks it serves.
        expr="count without (instance, engine) (count without (dp_rank) (headroom_engine_up == 1))",
    ),
)
