"""A made-up host with two GPUs and one vLLM server, for looking around without either.

Only what the daemon reads is stood in for: the NVML library, the process table, and a server on loopback whose page
has vLLM's shape and whose scheduler is `advisor.simulate`, step for step vLLM's own. Everything above is the real
program. The made-up model is named ``demo`` and so are the GPUs.
"""
