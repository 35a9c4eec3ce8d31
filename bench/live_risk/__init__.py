"""The whole daemon over stand-in GPUs that tell stories in compressed time, its alerts fired by a real Prometheus."""
