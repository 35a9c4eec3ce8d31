"""An inhibition snippet for Alertmanager: one cause, one notification."""

from typing import Any

_EXPORTER, _ENGINE = "HeadroomExporterDown", "HeadroomEngineDown"


def inhibition() -> dict[str, Any]:
    """Return the rules to append to ``inhibit_rules`` of alertmanager.yml.

    Labels that neither alert carries count as equal, so one rule serves GPUs and engines.
    """
    same = ["instance", "gpu", "engine", "dp_rank"]
    return {
        "inhibit_rules": [
            # The same alert at two severities: the critical one is enough.
            {
                "source_matchers": ['alertname=~"Headroom.+"', 'severity="critical"'],
                "target_matchers": ['alertname=~"Headroom.+"', 'severity=~"warning|info"'],
                "equal": ["alertname", *same],
            },
            # Memory that ends is also a risk of running out of it.
            {
                "source_matchers": ['alertname="HeadroomGpuMemoryEnds"', 'severity="critical"'],
                "target_matchers": ['alertname="HeadroomGpuOomRisk"', 'severity="warning"'],
                "equal": same,
            },
            {
                "source_matchers": ['alertname="HeadroomGpuOomRisk"', 'severity="critical"'],
                "target_matchers": [
                    'alertname=~"HeadroomGpuMemoryEnds|HeadroomGpuOvercommitted"',
                    'severity="warning"',
                ],
                "equal": same,
            },
            # Once it preempts, that it would is no news; a stalled engine has a queue, of course.
            {
                "source_matchers": ['alertname="HeadroomEnginePreempting"'],
                "target_matchers": ['alertname="HeadroomEngineKvFillsUp"'],
                "equal": same,
            },
            {
                "source_matchers": ['alertname="HeadroomEngineStalled"'],
                "target_matchers": ['alertname="HeadroomEngineQueueGrows"'],
                "equal": same,
            },
            # What is down tells nothing else that is worth a message.
            {
                "source_matchers": [f'alertname="{_ENGINE}"'],
                "target_matchers": ['alertname=~"HeadroomEngine.+|HeadroomMetricMissing"', f'alertname!="{_ENGINE}"'],
                "equal": ["instance", "engine"],
            },
            {
                "source_matchers": [f'alertname="{_EXPORTER}"'],
                "target_matchers": ['alertname=~"Headroom.+"', f'alertname!="{_EXPORTER}"'],
                "equal": ["instance"],
            },
        ]
    }
