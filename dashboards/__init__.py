"""Dashboards, rules and alerts, generated from the declarations that the metrics come from."""
