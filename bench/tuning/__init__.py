"""Whether the max_num_seqs that is advised is the one that a sweep on a real vLLM finds best."""
