"""What CUDA shows as the total of each NVIDIA GPU, as data: measured where public logs print it, else derived.

``torch.cuda.mem_get_info()[1]``, which vLLM takes its share of, is what the driver leaves of the memory that NVML
counts: on Linux it holds back 0.3 to 1 GiB, an amount that grew from driver to driver. A row's three figures are the
smallest, the newest drivers', and the largest total seen in public logs, in GiB with two decimals as PyTorch prints
them. Under Windows and WSL nothing is held back, and CUDA shows the whole of ``nvml_mib``.

Sources are links. ``seen`` stands for a search that anyone can repeat over public code for PyTorch's own sentence
"GPU 0 has a total capacity of ... GiB" with the row's middle figure; it tells sizes, not names, so boards of one
generation and size share their figures. ``derived`` rows follow from ``nvml_mib`` by `driver_mib`.
Multiprocessors and compute capability: https://developer.nvidia.com/cuda-gpus and the boards' data sheets.
"""

from typing import NamedTuple

SEEN = "https://github.com/search?type=code&q=%22total+capacity+of+{gib:.2f}+GiB%22"
MIG_GUIDE = "https://docs.nvidia.com/datacenter/tesla/mig-user-guide/supported-mig-profiles.html"
MIG_H100 = "https://jbarrow.ai/field_notes/nvidia-mig/"

_L40S = "https://github.com/vllm-project/vllm/issues/15815"
_A100_40 = "https://github.com/vllm-project/vllm/issues/16570"
_A100_80 = "https://github.com/vllm-project/vllm/issues/7992"
_A100_SXM = "https://github.com/LukeJYK/AutoScientists/blob/HEAD/vllm.log"
_H100 = "https://github.com/llm-d-incubation/llm-d-planner/blob/main/docs/empirical-vllm-memory-results.md"
_H100_NVL = "https://github.com/vllm-project/vllm/issues/16712"
_H200 = "https://github.com/vllm-project/vllm/issues/15394"
_B200 = "https://github.com/pytorch/ao/pull/4002"
_GB10 = "https://github.com/llamastash/llamastash/issues/80"
_T4 = "https://github.com/vllm-project/vllm/issues/15766"
_V100 = "https://github.com/vllm-project/vllm/issues/9356"
_RTX_3090 = "https://github.com/vllm-project/vllm/issues/2140"
_RTX_4090 = "https://github.com/ali-vilab/VGen/issues/104"
_RTX_5080 = "https://github.com/Kelsidavis/rusteze/blob/HEAD/vllm.log"
_PRO_4500 = "https://github.com/vllm-project/vllm/pull/51590"


class Row(NamedTuple):
    """One board. A second board with the same product name has its size in the name."""

    name: str
    """The words that identify it, without maker and brand; a second name for the same board stands after a bar."""
    also: str
    """Further words that a name of it may hold."""
    capability: tuple[int, int]
    sms: int
    nvml_mib: int
    """What NVML counts as its total (``nvidia-smi``); 0 where it counts nothing, as the memory is the CPU's too."""
    total_gib: tuple[float, float, float] | None
    """Smallest, expected and largest CUDA total seen; None where it is derived."""
    source: str = "seen"


def driver_mib(nvml_mib: int) -> float:
    """Return what a Linux driver is expected to hold back, in MiB.

    A line through boards of 8 to 48 GiB whose both totals are known (8,192 holds back 350, 12,288 380, 24,564 480,
    49,140 632); half and one and a half times as much bound what was seen on them.
    """
    return 300 + 0.007 * nvml_mib


ROWS = (
    # GeForce RTX 20
    Row("RTX 2060 6GB", "", (7, 5), 30, 6144, (5.59, 5.62, 5.80)),
    Row("RTX 2060 12GB", "", (7, 5), 34, 12288, None),
    Row("RTX 2060 SUPER", "8GB", (7, 5), 34, 8192, (7.58, 7.66, 7.80)),
    Row("RTX 2070", "8GB", (7, 5), 36, 8192, (7.58, 7.66, 7.80)),
    Row("RTX 2070 SUPER", "8GB", (7, 5), 40, 8192, (7.58, 7.66, 7.80)),
    Row("RTX 2080", "8GB", (7, 5), 46, 8192, (7.58, 7.66, 7.80)),
    Row("RTX 2080 SUPER", "8GB", (7, 5), 48, 8192, (7.58, 7.66, 7.80)),
    Row("RTX 2080 Ti", "11GB", (7, 5), 68, 11264, (10.56, 10.57, 10.76)),
    Row("RTX 2080 Ti 22GB", "modified", (7, 5), 68, 22528, None),
    Row("TITAN RTX", "24GB", (7, 5), 72, 24576, (23.45, 23.57, 23.70)),
    # GeForce RTX 30
    Row("RTX 3050 6GB", "", (8, 6), 18, 6144, (5.59, 5.62, 5.80)),
    Row("RTX 3050 8GB", "", (8, 6), 20, 8192, (7.60, 7.66, 7.80)),
    Row("RTX 3060 8GB", "", (8, 6), 28, 8192, (7.60, 7.66, 7.80)),
    Row("RTX 3060 12GB", "", (8, 6), 28, 12288, (11.62, 11.63, 11.77)),
    Row("RTX 3060 Ti", "8GB", (8, 6), 38, 8192, (7.60, 7.66, 7.80)),
    Row("RTX 3070", "8GB", (8, 6), 46, 8192, (7.60, 7.66, 7.80)),
    Row("RTX 3070 Ti", "8GB", (8, 6), 48, 8192, (7.60, 7.66, 7.80)),
    Row("RTX 3080 10GB", "", (8, 6), 68, 10240, (9.62, 9.64, 9.78)),
    Row("RTX 3080 12GB", "", (8, 6), 70, 12288, (11.62, 11.63, 11.77)),
    Row("RTX 3080 20GB", "modified", (8, 6), 68, 20480, (19.50, 19.58, 19.71)),
    Row("RTX 3080 Ti", "12GB", (8, 6), 80, 12288, (11.62, 11.63, 11.77)),
    Row("RTX 3090", "24GB", (8, 6), 82, 24576, (23.55, 23.57, 23.70), _RTX_3090),
    Row("RTX 3090 Ti", "24GB", (8, 6), 84, 24564, (23.51, 23.56, 23.70)),
    Row("RTX 3050 Laptop", "4GB", (8, 6), 16, 4096, None),
    Row("RTX 3060 Laptop", "6GB", (8, 6), 30, 6144, (5.59, 5.62, 5.80)),
    Row("RTX 3070 Laptop", "8GB", (8, 6), 40, 8192, (7.60, 7.66, 7.80)),
    Row("RTX 3070 Ti Laptop", "8GB", (8, 6), 46, 8192, (7.60, 7.66, 7.80)),
    Row("RTX 3080 Laptop 8GB", "", (8, 6), 48, 8192, (7.60, 7.66, 7.80)),
    Row("RTX 3080 Laptop 16GB", "", (8, 6), 48, 16384, (15.56, 15.60, 15.74)),
    Row("RTX 3080 Ti Laptop", "16GB", (8, 6), 58, 16384, (15.56, 15.60, 15.74)),
    # GeForce RTX 40
    Row("RTX 4060", "8GB", (8, 9), 24, 8188, (7.60, 7.63, 7.78)),
    Row("RTX 4060 Ti 8GB", "", (8, 9), 34, 8188, (7.60, 7.63, 7.78)),
    Row("RTX 4060 Ti 16GB", "", (8, 9), 34, 16380, (15.56, 15.60, 15.72)),
    Row("RTX 4070", "12GB", (8, 9), 46, 12282, (11.59, 11.62, 11.74)),
    Row("RTX 4070 SUPER", "12GB", (8, 9), 56, 12282, (11.59, 11.62, 11.74)),
    Row("RTX 4070 Ti", "12GB", (8, 9), 60, 12282, (11.59, 11.62, 11.74)),
    Row("RTX 4070 Ti SUPER", "16GB", (8, 9), 66, 16376, (15.56, 15.59, 15.72)),
    Row("RTX 4080", "16GB", (8, 9), 76, 16376, (15.56, 15.59, 15.72)),
    Row("RTX 4080 SUPER", "16GB", (8, 9), 80, 16376, (15.56, 15.59, 15.72)),
    Row("RTX 4090", "24GB", (8, 9), 128, 24564, (23.51, 23.52, 23.66), _RTX_4090),
    Row("RTX 4090 D", "24GB", (8, 9), 114, 24564, (23.51, 23.52, 23.66)),
    Row("RTX 4090 48GB", "modified", (8, 9), 128, 49140, (47.36, 47.37, 47.55)),
    Row("RTX 4050 Laptop", "6GB", (8, 9), 20, 6141, (5.59, 5.62, 5.80)),
    Row("RTX 4060 Laptop", "8GB", (8, 9), 24, 8188, (7.60, 7.63, 7.78)),
    Row("RTX 4070 Laptop", "8GB", (8, 9), 36, 8188, (7.60, 7.63, 7.78)),
    Row("RTX 4080 Laptop", "12GB", (8, 9), 58, 12282, (11.59, 11.62, 11.74)),
    Row("RTX 4090 Laptop", "16GB", (8, 9), 76, 16376, (15.56, 15.59, 15.72)),
    # GeForce RTX 50
    Row("RTX 5050", "8GB", (12, 0), 20, 8151, (7.40, 7.43, 7.52)),
    Row("RTX 5060", "8GB", (12, 0), 30, 8151, (7.40, 7.43, 7.52)),
    Row("RTX 5060 Ti 8GB", "", (12, 0), 36, 8151, (7.40, 7.43, 7.52)),
    Row("RTX 5060 Ti 16GB", "", (12, 0), 36, 16311, (15.45, 15.48, 15.50)),
    Row("RTX 5070", "12GB", (12, 0), 48, 12227, (11.47, 11.49, 11.57)),
    Row("RTX 5070 Ti", "16GB", (12, 0), 70, 16303, (15.44, 15.47, 15.50)),
    Row("RTX 5080", "16GB", (12, 0), 84, 16303, (15.44, 15.47, 15.50), _RTX_5080),
    Row("RTX 5090", "32GB", (12, 0), 170, 32607, (31.33, 31.36, 31.40)),
    Row("RTX 5090 D", "32GB", (12, 0), 170, 32607, (31.33, 31.36, 31.40)),
    Row("RTX 5060 Laptop", "8GB", (12, 0), 26, 8151, (7.40, 7.43, 7.52)),
    Row("RTX 5070 Laptop", "8GB", (12, 0), 36, 8151, (7.40, 7.43, 7.52)),
    Row("RTX 5070 Ti Laptop", "12GB", (12, 0), 46, 12227, (11.47, 11.49, 11.57)),
    Row("RTX 5080 Laptop", "16GB", (12, 0), 60, 16303, (15.44, 15.47, 15.50)),
    Row("RTX 5090 Laptop", "24GB", (12, 0), 82, 24463, None),
    # Workstation boards
    Row("Quadro RTX 4000", "8GB", (7, 5), 36, 8192, (7.58, 7.66, 7.80)),
    Row("Quadro RTX 5000", "16GB", (7, 5), 48, 16384, (15.55, 15.60, 15.75)),
    Row("Quadro RTX 6000", "24GB", (7, 5), 72, 24576, None),
    Row("Quadro RTX 8000", "48GB", (7, 5), 72, 49152, None),
    Row("RTX A2000 6GB", "", (8, 6), 26, 6138, (5.59, 5.62, 5.80)),
    Row("RTX A2000 12GB", "", (8, 6), 26, 12282, (11.58, 11.62, 11.76)),
    Row("RTX A4000", "16GB", (8, 6), 48, 16376, (15.56, 15.60, 15.74)),
    Row("RTX A4500", "20GB", (8, 6), 56, 20470, (19.50, 19.58, 19.71)),
    Row("RTX A5000", "24GB", (8, 6), 64, 24564, (23.46, 23.57, 23.69)),
    Row("RTX A5500", "24GB", (8, 6), 80, 24564, (23.46, 23.57, 23.69)),
    Row("RTX A6000", "48GB", (8, 6), 84, 49140, (47.37, 47.41, 47.55)),
    Row("RTX 2000 Ada", "16GB", (8, 9), 22, 16380, (15.56, 15.60, 15.72)),
    Row("RTX 4000 Ada", "20GB SFF", (8, 9), 48, 20475, (19.50, 19.57, 19.68)),
    Row("RTX 4500 Ada", "24GB", (8, 9), 60, 24570, (23.47, 23.53, 23.66)),
    Row("RTX 5000 Ada", "32GB", (8, 9), 100, 32760, (31.46, 31.48, 31.60)),
    Row("RTX 5880 Ada", "48GB", (8, 9), 110, 49140, (47.36, 47.38, 47.55)),
    Row("RTX 6000 Ada", "48GB", (8, 9), 142, 49140, (47.36, 47.38, 47.55)),
    Row("RTX PRO 2000 Blackwell", "16GB", (12, 0), 34, 16311, (15.44, 15.48, 15.50)),
    Row("RTX PRO 4000 Blackwell", "24GB SFF", (12, 0), 70, 24467, None),
    Row("RTX PRO 4500 Blackwell", "32GB Server", (12, 0), 82, 32623, (31.34, 31.38, 31.45), _PRO_4500),
    Row("RTX PRO 5000 Blackwell 48GB", "", (12, 0), 110, 48935, None),
    Row("RTX PRO 5000 Blackwell 72GB", "", (12, 0), 110, 73391, None),
    Row("RTX PRO 6000 Blackwell", "96GB Workstation Server Max-Q", (12, 0), 188, 97887, (94.95, 94.97, 95.02)),
    # Data-centre boards
    Row("P40", "24GB", (6, 1), 30, 24576, (22.30, 22.38, 23.88), "derived"),
    Row("P100 12GB", "PCIe", (6, 0), 56, 12288, (11.88, 11.91, 11.92), "derived"),
    Row("P100 16GB", "PCIe SXM", (6, 0), 56, 16384, (15.88, 15.89, 15.91)),
    Row("V100 16GB", "PCIe SXM FHHL", (7, 0), 80, 16384, (15.76, 15.77, 15.79)),
    Row("V100 32GB", "PCIe SXM", (7, 0), 80, 32768, (31.72, 31.73, 31.75), _V100),
    Row("T4", "16GB", (7, 5), 40, 15360, (14.55, 14.56, 14.76), _T4),
    Row("T4G", "16GB", (7, 5), 40, 15360, (14.55, 14.56, 14.76)),
    Row("A2", "16GB", (8, 6), 10, 15356, None),
    Row("A10", "24GB PCIe", (8, 6), 72, 23028, (21.95, 22.05, 22.21)),
    Row("A10G", "24GB", (8, 6), 80, 23028, (21.95, 22.05, 22.21)),
    Row("A16", "16GB", (8, 6), 10, 15356, None),
    Row("A30", "24GB PCIe", (8, 0), 56, 24576, (23.40, 23.50, 23.61)),
    Row("A40", "48GB PCIe", (8, 6), 84, 46068, (44.33, 44.42, 44.58)),
    Row("A100 40GB", "", (8, 0), 108, 40960, (39.37, 39.49, 39.60), _A100_40),
    Row("A100 PCIe 40GB", "", (8, 0), 108, 40960, (39.37, 39.39, 39.60), _A100_40),
    Row("A100 SXM 40GB", "", (8, 0), 108, 40960, (39.37, 39.49, 39.60)),
    Row("A100 SXM 64GB", "", (8, 0), 124, 65536, (63.40, 63.42, 63.45)),
    Row("A100 80GB", "", (8, 0), 108, 81920, (79.12, 79.19, 79.36), _A100_80),
    Row("A100 PCIe 80GB", "", (8, 0), 108, 81920, (79.12, 79.14, 79.33), _A100_80),
    Row("A100 SXM 80GB", "", (8, 0), 108, 81920, (79.12, 79.25, 79.36), _A100_SXM),
    Row("A800 40GB", "PCIe Active", (8, 0), 108, 40960, (39.37, 39.49, 39.60)),
    Row("A800 80GB", "PCIe SXM", (8, 0), 108, 81920, (79.12, 79.19, 79.36)),
    Row("L2", "24GB", (8, 9), 56, 23034, (21.94, 22.03, 22.19)),
    Row("L4", "24GB", (8, 9), 58, 23034, (21.94, 22.03, 22.19)),
    Row("L20", "48GB", (8, 9), 92, 46068, (44.30, 44.40, 44.58)),
    Row("L20Y", "80GB", (9, 0), 132, 81559, (79.09, 79.19, 79.36)),
    Row("L40", "48GB", (8, 9), 142, 46068, (44.30, 44.40, 44.58)),
    Row("L40S", "48GB", (8, 9), 142, 46068, (44.30, 44.40, 44.58), _L40S),
    Row("H100", "80GB", (9, 0), 132, 81559, (79.09, 79.19, 79.36), _H100),
    Row("H100 PCIe", "80GB", (9, 0), 114, 81559, (79.09, 79.19, 79.36)),
    Row("H100 SXM", "80GB", (9, 0), 132, 81559, (79.09, 79.19, 79.36), _H100),
    Row("H100 SXM 94GB", "", (9, 0), 132, 95830, (92.98, 93.09, 93.17)),
    Row("H100 NVL|H100 94GB", "", (9, 0), 132, 95830, (92.98, 93.09, 93.17), _H100_NVL),
    Row("H800", "80GB PCIe SXM", (9, 0), 132, 81559, (79.09, 79.19, 79.36)),
    Row("H20", "96GB", (9, 0), 78, 97871, (94.98, 95.00, 95.24)),
    Row("H20 3e|H20 141GB", "", (9, 0), 78, 143771, (139.69, 139.80, 139.84)),
    Row("H200", "141GB SXM", (9, 0), 132, 143771, (139.69, 139.80, 139.84), _H200),
    Row("H200 NVL", "141GB", (9, 0), 132, 143771, (139.69, 139.80, 139.84)),
    Row("GH200 96GB", "480GB", (9, 0), 132, 97871, (94.40, 94.50, 95.30)),
    Row("GH200 144GB", "624GB", (9, 0), 132, 147456, (138.0, 141.5, 143.5), "derived"),
    Row("B200", "180GB 192GB SXM", (10, 0), 148, 183359, (178.34, 178.35, 178.40), _B200),
    Row("GB200", "186GB 192GB NVL72 NVL4", (10, 0), 152, 189471, (184.20, 184.31, 184.50)),
    Row("B300", "270GB 288GB SXM AC", (10, 3), 148, 275040, (267.60, 267.69, 268.60)),
    Row("GB300", "279GB 288GB NVL72", (10, 3), 152, 284208, (276.40, 276.50, 277.50)),
    # Memory shared with the CPU: what CUDA shows is the system's, and grew with the system's image.
    Row("GB10", "128GB Spark DGX", (12, 1), 48, 0, (119.10, 119.70, 121.70), _GB10),
)


class Profile(NamedTuple):
    """A MIG slice: which share of the memory, how many multiprocessors, and the total that it shows where known."""

    name: str
    eighths: int
    """Memory in eighths of the board's."""
    sms: int
    total_gib: float | None = None


_A100_SMS = (14, 14, 28, 42, 56, 98)
_H100_SMS = (16, 26, 32, 60, 64, 132)
_B200_SMS = (18, 18, 36, 66, 72, 148)


def _seven(sizes: tuple[int, ...], sms: tuple[int, ...], totals: tuple[float | None, ...]) -> tuple[Profile, ...]:
    one, two, three, seven = sizes
    names = (f"1g.{one}gb", f"1g.{two}gb", f"2g.{two}gb", f"3g.{three}gb", f"4g.{three}gb", f"7g.{seven}gb")
    eighth, quarter, half = totals
    known = (eighth, quarter, quarter, half, half, None)
    return tuple(
        Profile(name, eighths, count, total)
        for name, eighths, count, total in zip(names, (1, 2, 2, 4, 4, 8), sms, known, strict=True)
    )


MIG: dict[str, tuple[tuple[Profile, ...], str]] = {
    "A30": ((Profile("1g.6gb", 2, 14, 5.81), Profile("2g.12gb", 4, 28, 11.75), Profile("4g.24gb", 8, 56)), MIG_GUIDE),
    "A100 40GB": (_seven((5, 10, 20, 40), _A100_SMS, (4.75, 9.75, 19.62)), MIG_GUIDE),
    "A100 PCIe 40GB": (_seven((5, 10, 20, 40), _A100_SMS, (4.75, 9.75, 19.62)), MIG_GUIDE),
    "A100 SXM 40GB": (_seven((5, 10, 20, 40), _A100_SMS, (4.75, 9.75, 19.62)), MIG_GUIDE),
    "A100 80GB": (_seven((10, 20, 40, 80), _A100_SMS, (9.50, 19.50, 39.25)), MIG_GUIDE),
    "A100 PCIe 80GB": (_seven((10, 20, 40, 80), _A100_SMS, (9.50, 19.50, 39.25)), MIG_GUIDE),
    "A100 SXM 80GB": (_seven((10, 20, 40, 80), _A100_SMS, (9.50, 19.50, 39.25)), MIG_GUIDE),
    "H100": (_seven((10, 20, 40, 80), _H100_SMS, (9.75, 19.62, 39.50)), MIG_H100),
    "H100 PCIe": (_seven((10, 20, 40, 80), (14, 14, 28, 42, 56, 114), (9.75, 19.62, 39.50)), MIG_GUIDE),
    "H100 SXM": (_seven((10, 20, 40, 80), _H100_SMS, (9.75, 19.62, 39.50)), MIG_H100),
    "H100 NVL": (_seven((12, 24, 47, 94), _H100_SMS, (None, None, None)), MIG_GUIDE),
    "H100 SXM 94GB": (_seven((12, 24, 47, 94), _H100_SMS, (None, None, None)), MIG_GUIDE),
    "H20": (_seven((12, 24, 48, 96), (8, 14, 20, 36, 38, 78), (None, None, None)), MIG_GUIDE),
    "GH200 96GB": (_seven((12, 24, 48, 96), _H100_SMS, (None, None, None)), MIG_GUIDE),
    "H200": (_seven((18, 35, 71, 141), _H100_SMS, (16.00, None, 69.50)), MIG_GUIDE),
    "H200 NVL": (_seven((18, 35, 71, 141), _H100_SMS, (16.00, None, 69.50)), MIG_GUIDE),
    "B200": (_seven((23, 45, 90, 180), _B200_SMS, (20.50, None, None)), MIG_GUIDE),
    "GB200": (_seven((24, 47, 93, 186), _B200_SMS, (None, None, None)), MIG_GUIDE),
    "B300": (_seven((34, 67, 135, 269), _B200_SMS, (None, None, None)), MIG_GUIDE),
    "RTX PRO 6000 Blackwell": (
        (Profile("1g.24gb", 2, 46), Profile("2g.48gb", 4, 94), Profile("4g.96gb", 8, 188)),
        MIG_GUIDE,
    ),
}
"""Slices by board."""
