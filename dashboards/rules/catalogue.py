"""All alerts, in order."""

from advisor.policy import Policy
from dashboards.rules import engine, exporter, gpu
from dashboards.rules.declarations import Alert


def all_alerts(policy: Policy) -> tuple[Alert, ...]:
    """Return every alert with the thresholds of a policy."""
    return (*gpu.alerts(policy), *engine.alerts(policy), *exporter.alerts(policy))
