"""What the daemon serves: /metrics, a status page, a JSON API, its own health."""
