"""How vLLM holds a quantised model's matrices: ``quantization_config`` and ``--quantization`` -> `Scheme` a matrix.

A method is one function of `advisor.quantization.methods` and one row of a table here; a method without a row is
declined by its name.
"""

from collections.abc import Mapping

from advisor.quantization import methods
from advisor.quantization.methods import Method
from advisor.quantization.scheme import FP8_CHANNEL, FP8_TENSOR, MXFP8, Choice, Scheme, fp8_blocks
from advisor.spec import DeclinedError, Quantization
from advisor.versions import Version

__all__ = ["CHECKPOINT_METHODS", "RUN_TIME_METHODS", "Choice", "Scheme", "choice_of"]

CHECKPOINT_METHODS: Mapping[str, Method] = {
    "auto-round": methods.auto_round,
    "auto_round": methods.auto_round,
    "autoround": methods.auto_round,
    "awq": methods.awq,
    "awq_marlin": methods.awq,
    "bitsandbytes": methods.bitsandbytes,
    "compressed-tensors": methods.compressed_tensors,
    "compressed_tensors": methods.compressed_tensors,
    "deepseek_v4_fp8": methods.deepseek_v4,
    "fbgemm_fp8": methods.fbgemm_fp8,
    "fp8": methods.fp8,
    "gpt_oss_mxfp4": methods.mxfp4,
    "gptq": methods.gptq,
    "gptq_marlin": methods.gptq,
    "inc": methods.auto_round,
    "intel/auto-round": methods.auto_round,
    "modelopt": methods.modelopt,
    "modelopt_fp4": methods.modelopt,
    "modelopt_mixed": methods.modelopt,
    "modelopt_mxfp8": methods.modelopt,
    "mixed_precision": methods.modelopt,
    "nvfp4": methods.modelopt,
    "mxfp4": methods.mxfp4,
    "quark": methods.quark,
    "torchao": methods.torchao,
}
"""By the ``quant_method`` of a checkpoint, or by the ``quant_algo`` of ModelOpt's that leave the method out."""

RUN_TIME_METHODS: Mapping[str, Method] = {
    "bitsandbytes": methods.bitsandbytes,
    "experts_int8": methods.experts_int8,
    "fp8": methods.online(FP8_TENSOR),
    "fp8_per_block": methods.online(fp8_blocks(128, 128)),
    "fp8_per_channel": methods.online(FP8_CHANNEL),
    "fp8_per_tensor": methods.online(FP8_TENSOR),
    "int8_per_channel_weight_only": methods.experts_int8,
    "mxfp8": methods.online(MXFP8),
    "ptpc_fp8": methods.online(FP8_CHANNEL),
}
"""By the flag, of a checkpoint that is not quantised."""

PLAIN_FLAGS = frozenset({"none", "auto", ""})


def choice_of(
    quantization: Quantization | None, flag: str | None, *, version: Version, capability: int | None = None
) -> Choice | None:
    """Return how each matrix is held, or None where all are as the model's dtype says.

    Args:
        quantization: What the checkpoint says.
        flag: ``--quantization``; on a quantised checkpoint it names the same method or a kernel for it.
        version: vLLM's release.
        capability: The GPU's compute capability, as in 90; None leaves open which kernels pad what.

    Raises:
        DeclinedError: The method is not one these rules describe; names it.
        ModelConfigError: The method's config cannot be right.
    """
    if quantization is not None:
        method = CHECKPOINT_METHODS.get(quantization.method)
        if method is None:
            raise DeclinedError(f"weights quantised with {quantization.method} are not described by these rules")
        return method(quantization.config, version, capability)
    if flag is None or flag.lower() in PLAIN_FLAGS:
        return None
    method = RUN_TIME_METHODS.get(flag.lower())
    if method is None:
        raise DeclinedError(f"--quantization {flag} of a checkpoint that is not quantised is not described")
    return method({}, version, capability)
