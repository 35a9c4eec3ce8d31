import pytest

from advisor.kv import checkpoint_kv_cache_dtype
from advisor.spec import Quantization

FP8_SCHEME = {"num_bits": 8, "type": "float", "dynamic": False}


@pytest.mark.parametrize(
    ("method", "config", "version", "dtype"),
    [
        ("compressed-tensors", {"kv_cache_scheme": FP8_SCHEME}, (0, 16, 0), "fp8"),
        ("compressed-tensors", {"kv_cache_scheme": FP8_SCHEME}, (0, 13, 0), "auto"),
        ("compressed-tensors", {"kv_cache_scheme": None}, (0, 32, 0), "auto"),
        ("modelopt", {"kv_cache_quant_algo": "FP8"}, (0, 19, 0), "fp8"),
        ("modelopt", {"quantization": {"kv_cache_quant_algo": "NVFP4"}}, (0, 19, 0), "auto"),
        ("modelopt", {"quantization": {"kv_cache_quant_algo": "NVFP4"}}, (0, 20, 0), "nvfp4"),
        ("modelopt_fp4", {"kv_cache_scheme": FP8_SCHEME}, (0, 32, 0), "fp8"),
        ("awq", {"kv_cache_scheme": FP8_SCHEME}, (0, 32, 0), "auto"),
    ],
)
def test_a_checkpoint_with_scales_for_its_cache_decides_what_auto_means(method, config, version, dtype):
    assert checkpoint_kv_cache_dtype(Quantization(method=method, config=config), version) == dtype


def test_plain_weights_leave_it_to_the_models_dtype():
    assert checkpoint_kv_cache_dtype(None, (0, 32, 0)) == "auto"
