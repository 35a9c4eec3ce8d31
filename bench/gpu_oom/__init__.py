"""A real out-of-memory on a real GPU, and what the daemon said before it: ``python -m bench.gpu_oom``."""
