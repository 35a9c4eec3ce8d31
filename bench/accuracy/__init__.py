"""How far the estimator is from what real vLLM servers reported."""
