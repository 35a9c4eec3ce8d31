"""Alerts about the monitor itself: silence must not look like health."""

from advisor.policy import Policy
from advisor.report import Severity
from dashboards.links import Board
from dashboards.rules.declarations import Alert


def alerts(policy: Policy) -> tuple[Alert, ...]:
    """Return the alerts about the daemon."""
    return (
        Alert(
            name="HeadroomExporterDown",
            severity=Severity.CRITICAL,
            expr="up == 0 and on (job, instance) last_over_time(headroom_build_info[1d])",
            hold="5m",
            summary="vllm-headroom does not answer Prometheus.",
            description="{{ $labels.instance }} has not answered for five minutes and did within the last day: "
            "no alert about its GPUs and engines can fire.",
            board=Board.FLEET,
            panel="Blind",
        ),
        Alert(
            name="HeadroomExporterAbsent",
            severity=Severity.WARNING,
            expr="absent(headroom_build_info)",
            hold="15m",
            summary="Prometheus scrapes no vllm-headroom at all.",
            description="These rules are loaded and nothing feeds them: the scrape job is missing, or everything that "
            "it finds is down.",
            board=Board.FLEET,
            panel="Blind",
            lacks=("instance",),
        ),
        Alert(
            name="HeadroomCollectorFailing",
            severity=Severity.WARNING,
            expr="headroom_collector_success == 0",
            hold="10m",
            summary="vllm-headroom cannot read one of its sources.",
            description="The {{ $labels.collector }} source of {{ $labels.instance }} has failed for ten minutes: what "
            "it would tell is missing, and alerts on it are silent. headroom_collector_failing says why.",
            board=Board.SERVER,
            panel="Collectors",
            lacks=("gpu",),
        ),
        Alert(
            name="HeadroomConfigNotReloaded",
            severity=Severity.WARNING,
            expr="headroom_config_last_reload_successful == 0",
            hold="10m",
            summary="vllm-headroom runs by an old configuration or certificate.",
            description="What is on the disk of {{ $labels.instance }} has been refused for ten minutes, and the old "
            "stays in effect: until the certificate ends, or the daemon is started again and refuses it, too.",
            board=Board.SERVER,
            panel="Collectors",
            lacks=("gpu",),
        ),
        Alert(
            name="HeadroomMetricMissing",
            severity=Severity.INFO,
            expr="headroom_engine_metric_missing == 1",
            hold="30m",
            summary="A vLLM server does not show a metric that its release should have.",
            description="{{ $labels.engine }} shows no {{ $labels.metric }}, or a value that it cannot have: what "
            "follows from it is missing. A newer release may have renamed it.",
            board=Board.ENGINE,
            panel="What it is and what it lacks",
        ),
    )
