"""A load test of a vLLM server over its own HTTP API."""
