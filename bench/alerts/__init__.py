"""The alerts at work: the demo under a real Prometheus and a real Alertmanager, and when each alert came."""
