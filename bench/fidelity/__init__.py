"""How near the simulation comes to a real vLLM under the same load."""
