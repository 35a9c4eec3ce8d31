"""How long ``vllm-headroom plan`` takes to answer."""
