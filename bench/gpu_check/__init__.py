"""What we read of this machine's GPUs, held against nvidia-smi and CUDA, and written down to test with. Reads only."""
