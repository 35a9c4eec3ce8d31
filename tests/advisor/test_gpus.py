import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.gpus import UnknownGpuError, compute_capability, find_gpu, known_gpus
from advisor.units import GIB, MIB

# What the servers behind these links printed as their GPU's total, in GiB.
PRINTED = [
    ("NVIDIA H100 80GB HBM3", 79.18, "https://github.com/kolyangg/mlops-assignment/blob/HEAD/logs/vllm.log"),
    ("NVIDIA H100 NVL", 93.02, "https://github.com/vllm-project/vllm/issues/16712"),
    ("NVIDIA H200", 139.72, "https://github.com/vllm-project/vllm/issues/15394"),
    ("NVIDIA A100-PCIE-40GB", 39.38, "https://github.com/vllm-project/vllm/issues/16570"),
    ("NVIDIA A100-SXM4-80GB", 79.25, "https://github.com/LukeJYK/AutoScientists/blob/HEAD/vllm.log"),
    ("NVIDIA A100 80GB PCIe", 79.14, "https://github.com/vllm-project/vllm/issues/7992"),
    ("NVIDIA L40S", 44.42, "https://github.com/vllm-project/vllm/issues/15815"),
    ("Tesla T4", 14.56, "https://github.com/mobambas/Agentic-Healthcare-Maps/blob/HEAD/vllm_server.log"),
    ("Tesla V100-SXM2-32GB", 31.73, "https://github.com/vllm-project/vllm/issues/9356"),
    ("NVIDIA GeForce RTX 5080", 15.47, "https://github.com/Kelsidavis/rusteze/blob/HEAD/vllm.log"),
    ("NVIDIA GeForce RTX 3090", 23.69, "https://github.com/vllm-project/vllm/issues/2140"),
    ("NVIDIA GeForce RTX 4090", 23.65, "https://github.com/tloen/llama-int8/issues/7"),
    ("NVIDIA RTX PRO 4500 Blackwell", 31.38, "https://github.com/vllm-project/vllm/pull/51590"),
    ("NVIDIA B200", 178.35, "https://github.com/pytorch/ao/pull/4002"),
    ("NVIDIA GB10", 121.69, "https://github.com/llamastash/llamastash/issues/80"),
]


@pytest.mark.parametrize(("name", "printed_gib", "source"), PRINTED)
def test_the_total_that_a_real_server_printed_lies_within_the_bounds(name, printed_gib, source):
    total = find_gpu(name).cuda_total
    assert total.lower <= printed_gib * GIB <= total.upper


@pytest.mark.parametrize(
    ("name", "printed_gib", "source"),
    [
        ("RTX 4060", 8.0, "https://github.com/vllm-project/vllm/issues/13882"),
        ("RTX 4080", 15.99, "https://github.com/mrpid12org/imageworks/blob/HEAD/nohup.out"),
    ],
)
def test_under_wsl_cuda_shows_all_that_nvml_counts(name, printed_gib, source):
    nvml_gib = find_gpu(name).nvml_total_bytes / GIB
    assert nvml_gib == pytest.approx(printed_gib, abs=0.01)


@pytest.mark.parametrize(
    "spelling",
    ["H100", "h100 80GB", "NVIDIA H100 80 GB", "NVIDIA H100 80GB HBM3", "H100-80g"],
)
def test_maker_case_hyphens_and_memory_kind_make_no_difference(spelling):
    assert find_gpu(spelling).name == "H100"


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("4090", "RTX 4090"),
        ("rtx4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4090 D", "RTX 4090 D"),
        ("RTX 4090D", "RTX 4090 D"),
        ("4070tisuper", "RTX 4070 Ti SUPER"),
        ("RTX 3070 Laptop GPU", "RTX 3070 Laptop"),
        ("H100 SXM5", "H100 SXM"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("A100-SXM4-80GB", "A100 SXM 80GB"),
        ("A100-PCIE-40GB", "A100 PCIe 40GB"),
        ("NVIDIA GH200 480GB", "GH200 96GB"),
        ("NVIDIA H20-3e", "H20 3e"),
        ("H20 141GB", "H20 3e"),
        ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", "RTX PRO 6000 Blackwell"),
        ("PRO 6000", "RTX PRO 6000 Blackwell"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("RTX A6000", "RTX A6000"),
        ("L40", "L40"),
        ("L40S", "L40S"),
        ("NVIDIA B300 SXM6 AC", "B300"),
        ("DGX Spark", "GB10"),
    ],
)
def test_names_as_people_and_drivers_write_them_mean_one_board(spelling, name):
    assert find_gpu(spelling).name == name


@pytest.mark.parametrize(
    ("spelling", "names"),
    [
        ("A100", ["A100 40GB", "A100 80GB"]),
        ("V100", ["V100 16GB", "V100 32GB"]),
        ("RTX 3080", ["RTX 3080 10GB", "RTX 3080 12GB", "RTX 3080 20GB"]),
        ("RTX 4060 Ti", ["RTX 4060 Ti 8GB", "RTX 4060 Ti 16GB"]),
        ("GH200", ["GH200 96GB", "GH200 144GB"]),
        ("RTX 6000", ["Quadro RTX 6000", "RTX 6000 Ada", "RTX PRO 6000 Blackwell"]),
        ("A100 1g.10gb", ["A100 40GB MIG 1g.10gb", "A100 80GB MIG 1g.10gb"]),
    ],
)
def test_a_name_that_several_boards_share_is_refused_with_all_of_them(spelling, names):
    with pytest.raises(UnknownGpuError) as refusal:
        find_gpu(spelling)
    assert str(refusal.value).endswith("is more than one GPU: " + " or ".join(names))


@pytest.mark.parametrize(("spelling", "near"), [("RTX 4900", "RTX 4090"), ("H1000", "H100"), ("MI300X", "B300")])
def test_an_unknown_name_is_refused_with_the_nearest_ones(spelling, near):
    with pytest.raises(UnknownGpuError, match=f"no GPU is known as {spelling!r}.*{near}"):
        find_gpu(spelling)


def test_a_board_does_not_become_another_by_a_size_it_never_had():
    with pytest.raises(UnknownGpuError):
        find_gpu("A100 90GB")


def test_every_board_answers_to_its_own_name():
    for gpu in known_gpus():
        assert find_gpu(gpu.name) == gpu


def test_names_are_distinct():
    names = [gpu.name for gpu in known_gpus()]
    assert len(names) == len(set(names))


def test_cuda_never_shows_more_than_nvml():
    for gpu in known_gpus():
        if gpu.nvml_total_bytes is not None:
            assert gpu.cuda_total.upper <= gpu.nvml_total_bytes + 10 * MIB, gpu.name


def test_a_derived_total_is_as_near_as_the_boards_it_is_derived_from():
    for gpu in known_gpus():
        if 8_000 * MIB <= (gpu.nvml_total_bytes or 0) <= 50_000 * MIB and gpu.source != "derived":
            held = gpu.nvml_total_bytes - gpu.cuda_total.expected
            assert held <= 1.7 * (300 + 0.007 * gpu.nvml_total_bytes / MIB) * MIB, gpu.name


def test_a_slice_shows_its_share_of_the_board():
    whole = find_gpu("H100")
    for profile in whole.mig_profiles:
        part = find_gpu(f"H100 MIG {profile}")
        assert part.mig_profile == profile
        assert part.compute_capability == whole.compute_capability
        assert part.cuda_total.expected <= whole.cuda_total.expected
    assert find_gpu("NVIDIA H100 80GB HBM3 MIG 1g.10gb").cuda_total.expected == pytest.approx(9.75 * GIB)
    assert find_gpu("MIG 1g.23gb B200").cuda_total.expected == 20992 * MIB


def test_a_profile_settles_which_board_is_meant():
    assert find_gpu("A100 3g.40gb").name == "A100 80GB MIG 3g.40gb"


def test_a_profile_that_a_board_does_not_have_is_refused_with_those_it_has():
    with pytest.raises(UnknownGpuError, match=r"H100 has no MIG profile 5g\.50gb; it has 1g\.10gb, 1g\.20gb"):
        find_gpu("H100 MIG 5g.50gb")


def test_all_boards_of_a_name_can_share_a_compute_capability():
    assert compute_capability("NVIDIA A100") == (8, 0)
    assert compute_capability("RTX 6000") is None
    assert compute_capability("unheard of") is None


@given(st.text(max_size=30))
def test_no_text_does_worse_than_being_refused(text):
    with contextlib.suppress(UnknownGpuError):
        find_gpu(text)
