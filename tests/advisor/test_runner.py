from dataclasses import replace

import pytest

from advisor.layers import GatedDeltaNet
from advisor.runner import Runner, model_runner
from advisor.spec import Experts, Quantization
from tests.advisor.test_activation import LLAMA_8B

LLAMA = replace(LLAMA_8B, architecture="LlamaForCausalLM")
QWEN3 = replace(LLAMA_8B, architecture="Qwen3ForCausalLM")
QWEN2 = replace(LLAMA_8B, architecture="Qwen2ForCausalLM")
QUANTISED = replace(QWEN3, quantization=Quantization(method="awq", config={}))
MIXTURE = replace(
    LLAMA_8B,
    architecture="Qwen3MoeForCausalLM",
    experts=Experts(num_experts=8, experts_per_token=2, intermediate_size=768),
)
STATE = GatedDeltaNet(num_k_heads=16, num_v_heads=32, head_k_dim=128, head_v_dim=128, conv_kernel=4)
HYBRID = replace(LLAMA_8B, architecture="Qwen3NextForCausalLM", layers=((STATE,), *LLAMA_8B.layers))


@pytest.mark.parametrize(
    ("spec", "version", "runner"),
    [
        (LLAMA, (0, 7, 3), Runner.V0),
        (LLAMA, (0, 8, 0), Runner.V1),
        (LLAMA, (0, 22, 0), Runner.V1),
        (QWEN3, (0, 22, 0), Runner.V2),
        (LLAMA, (0, 23, 0), Runner.V2),
        (QWEN2, (0, 24, 0), Runner.V1),
        (QWEN2, (0, 25, 0), Runner.V2),
        (QUANTISED, (0, 23, 0), Runner.V1),
        (QUANTISED, (0, 24, 0), Runner.V2),
        (MIXTURE, (0, 28, 0), Runner.V1),
        (MIXTURE, (0, 29, 0), Runner.V2),
        (HYBRID, (0, 27, 0), Runner.V1),
        (HYBRID, (0, 33, 0), Runner.V2),
    ],
)
def test_each_release_picks_the_runner_that_its_table_names(spec, version, runner):
    assert model_runner(version, spec) is runner
