"""The risk of preemption, judged on engines whose KV cache is scarce: a real vLLM on the CPU, and simulated ones."""
