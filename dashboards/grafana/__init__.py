"""Four dashboards, built with Grafana's own SDK; only `dashboards.generate` imports these modules."""
