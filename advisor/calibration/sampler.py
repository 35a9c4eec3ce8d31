"""What the sampler holds at its peak, by release: bytes for each request and vocabulary entry.

Derived from the source of each release and confirmed by reported start-up peaks.

- Through 0.16 the native path sorts: fp32 logits, their sorted copy, 64-bit indices, softmax, cumulative sum and masks
  (``v1/sample/ops/topk_topp_sampler.py:apply_top_k_top_p``; V0 ``layers/sampler.py``). 38.1 reproduces Qwen3-14B on
  0.15 (5.64 GiB at 1,024 x 151,936), gpt-oss-120b on 0.11 (7.38 at 1,024 x 201,088), opt-125m on 0.8 (0.47 at
  256 x 50,272).
- From 0.17 a Triton kernel filters in place, and FlashInfer's kernels, the default from 0.21, do alike: 16-bit logits,
  fp32 logits, probabilities and exponential noise, 2 + 4 + 4 + 4. Confirmed on 0.17 to 0.19: Qwen3-14B 2.23,
  Llama-3.1-8B 1.89, phi-4 1.52, Gemma-2-9B 3.65.
- 0.8 to 0.10 use FlashInfer where it is installed, as in the official image, else the native path: Qwen2-7B on 0.10.1
  took 0.55 GiB beside weights and KV in one place and 1.54 in another, at 256 x 152,064.
- Model Runner V2 samples in place from 16-bit logits and rehearses neither top-k nor top-p
  (``v1/worker/gpu/model_runner.py:_dummy_sampler_run``).
"""

from advisor.runner import Runner
from advisor.units import MIB
from advisor.versions import Version

NATIVE = 38.1
FUSED = 14.0
IN_PLACE = 2.0
IN_PLACE_GATHERED = 6.0
"""With the upcast or the ranks' gathered copy that some releases make."""

TRITON_SINCE: Version = (0, 17, 0)
FLASHINFER_SINCE: Version = (0, 21, 0)
FLASHINFER_IF_INSTALLED = ((0, 8, 0), (0, 11, 0))
"""From the first up to, not including, the second."""

LIBRARIES_BYTES = 32 * MIB
"""cuBLAS's workspace on Hopper, smaller elsewhere; allocated by PyTorch at the first matrix product."""


def bytes_per_entry(version: Version, runner: Runner, *, flashinfer: bool | None = None) -> tuple[float, float, float]:
    """Return lower, expected and upper bytes for each request and vocabulary entry.

    ``flashinfer`` is VLLM_USE_FLASHINFER_SAMPLER where it is set: from 0.11 to 0.16 it has to be asked for, and before
    it may be turned off, or asked for in vain where it is not installed.
    """
    if runner is Runner.V2:
        return IN_PLACE, IN_PLACE, IN_PLACE_GATHERED
    if version >= TRITON_SINCE:
        return FUSED, FUSED, FUSED
    if runner is Runner.V1 and flashinfer is not False:
        if FLASHINFER_IF_INSTALLED[0] <= version < FLASHINFER_IF_INSTALLED[1]:
            return FUSED, FUSED if flashinfer else NATIVE, NATIVE
        if flashinfer:
            return FUSED, FUSED, FUSED
    return NATIVE, NATIVE, NATIVE


def triton_buffer_bytes(version: Version, runner: Runner, *, sm_count: int, vocab_size: int) -> float:
    """Return the Triton filter's scratch, one fp32 row of the vocabulary for each multiprocessor.

    Source: ``v1/sample/ops/topk_topp_triton.py``, 0.17 on; not allocated where FlashInfer samples.
    """
    if runner is not Runner.V1 or not TRITON_SINCE <= version < FLASHINFER_SINCE:
        return 0.0
    return 4.0 * sm_count * vocab_size
