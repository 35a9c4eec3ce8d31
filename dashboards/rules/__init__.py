"""Recording rules and alerts, declared once; Prometheus, Alertmanager and Grafana files are written from them."""
