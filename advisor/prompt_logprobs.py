"""What a request that asks for ``prompt_logprobs`` takes: vLLM's profile run at the start does not rehearse it.

Through 0.28, and later where the first model runner still runs a model, all of a step's prompt rows of the request are
turned into logits at once (``v1/worker/gpu_model_runner.py:_get_prompt_logprobs_dict``); Model Runner V2 takes them
1,024 at a time (``v1/worker/gpu/sample/prompt_logprob.py:CHUNK_SIZE``). Each row has the whole vocabulary twice, as
16-bit logits and as fp32 log-probabilities (``v1/sample/sampler.py:compute_logprobs``). Read in 0.32, not measured.
"""

from advisor.plan import EnginePlan
from advisor.runner import Runner

_BYTES_PER_ENTRY = 2 + 4
_V2_ROWS = 1024


def beyond_start_bytes(theory: EnginePlan, vocab_size: int) -> float | None:
    """Return by how much that exceeds the activation peak, whose memory the allocator keeps; None where not known.

    By then the step's own activations are free again, so what was rehearsed for them serves here first.
    """
    if theory.memory is None or theory.runner is Runner.V0:
        return None
    flags = theory.flags
    rows = min(flags.max_num_batched_tokens, flags.max_model_len)
    if theory.runner is Runner.V2:
        rows = min(rows, _V2_ROWS)
    return max(0.0, float(rows * vocab_size * _BYTES_PER_ENTRY) - theory.memory.activation_peak.expected)
