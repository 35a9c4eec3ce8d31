"""``python -m exporter`` is ``vllm-headroom``."""

from exporter.cli import main

main()
