"""Examples for autoscalers on headroom, not on GPU memory: vLLM fills its GPU whatever the load.

One number serves all: how many replicas the demand would fill. A replica takes what it runs and what still fits;
demand is what runs and what waits.
"""

from typing import Any

MODEL = "my-model"
FILLED = 0.8
"""How full replicas are meant to be: the rest absorbs a rush while new ones start, which takes minutes."""

_NAME = "headroom_replicas_of_demand"
_SCALE_DOWN = {"scaleDown": {"stabilizationWindowSeconds": 600}}


def replicas_of_demand(model: str) -> str:
    """Return the expression: replicas that present demand would fill to the last request."""
    of_model = f'{{model_name="{model}"}}'
    running, waiting, more = (
        f"sum(headroom_engine_{field}{of_model})"
        for field in ("requests_running", "requests_waiting", "request_headroom")
    )
    # A replica is a server, with however many data-parallel ranks it serves.
    up = f"count(count by (instance, engine) (headroom_engine_up{of_model} == 1))"
    return f"({running} + {waiting}) / (({running} + {more}) / {up})"


def keda() -> dict[str, Any]:
    """Return a ScaledObject."""
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": MODEL},
        "spec": {
            "scaleTargetRef": {"name": MODEL},
            "minReplicaCount": 1,
            "maxReplicaCount": 8,
            # KEDA's own cooldownPeriod is for the way from one replica to none.
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": _SCALE_DOWN}},
            "triggers": [
                {
                    "type": "prometheus",
                    "metricType": "AverageValue",
                    "metadata": {
                        "serverAddress": "http://prometheus.monitoring:9090",
                        "query": replicas_of_demand(MODEL),
                        "threshold": f"{FILLED:g}",
                    },
                }
            ],
        },
    }


def prometheus_adapter() -> dict[str, Any]:
    """Return the rule for prometheus-adapter that makes the number an external metric."""
    return {
        "externalRules": [
            {
                "seriesQuery": "headroom_engine_request_headroom",
                "name": {"as": _NAME},
                "resources": {"namespaced": False},
                "metricsQuery": replicas_of_demand(MODEL),
            }
        ]
    }


def horizontal_pod_autoscaler() -> dict[str, Any]:
    """Return an autoscaler over that metric."""
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": MODEL},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": MODEL},
            "minReplicas": 1,
            "maxReplicas": 8,
            "behavior": _SCALE_DOWN,
            "metrics": [
                {
                    "type": "External",
                    "external": {
                        "metric": {"name": _NAME},
                        "target": {"type": "AverageValue", "averageValue": f"{1000 * FILLED:.0f}m"},
                    },
                }
            ],
        },
    }
