"""What reading a vLLM page costs without the network: the daemon's reader beside prometheus_client's parser."""

import re
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from bench.performance.floor import values_of
from exporter.sources.vllm import PageReader

_AT_LEAST_SECONDS = 0.5
_AT_LEAST_TIMES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class PageCost:
    """CPU time of reading one page."""

    ranks: int
    """Data-parallel engines that share it."""
    lines: int
    size_bytes: int
    library_seconds: float
    """prometheus_client's parser, all lines."""
    first_seconds: float
    """Our reader, the server's first page."""
    later_seconds: float
    """Our reader, any later page."""
    least_seconds: float
    """One regular expression that finds the wanted lines, and ``float``."""
    peak_bytes: int
    """What our reader holds at most while it reads a later page, and what it remembers of the first."""


def of_ranks(page: str, ranks: int) -> str:
    """Return a page of one engine as this many data-parallel engines would write it."""
    lines = []
    for line in page.splitlines(keepends=True):
        shared = 'engine="0"' not in line
        lines += [line] if shared else [re.sub('engine="0"', f'engine="{rank}"', line) for rank in range(ranks)]
    return "".join(lines)


def cost(page: str, ranks: int) -> PageCost:
    """Measure."""
    text = of_ranks(page, ranks)
    reader = PageReader()
    tracemalloc.start()
    reader.read(text)
    tracemalloc.reset_peak()
    reader.read(text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return PageCost(
        ranks=ranks,
        lines=text.count("\n"),
        size_bytes=len(text.encode()),
        library_seconds=_cpu_seconds(lambda: list(text_string_to_metric_families(text))),
        first_seconds=_cpu_seconds(lambda: PageReader().read(text)),
        later_seconds=_cpu_seconds(lambda: reader.read(text)),
        least_seconds=_cpu_seconds(lambda: values_of(text)),
        peak_bytes=peak,
    )


def _cpu_seconds(call: Callable[[], object]) -> float:
    """Return the CPU time of one call, the mean of several."""
    times = 0
    began = time.process_time()
    while (spent := time.process_time() - began) < _AT_LEAST_SECONDS or times < _AT_LEAST_TIMES:
        call()
        times += 1
    return spent / times
