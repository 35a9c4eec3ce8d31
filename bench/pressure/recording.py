"""What the daemon saw of one server under load, second by second, as a compact file.

JSON lines, compressed: a header, then one line a page, of which only what `advisor.load` and `advisor.pressure` read is
kept. Histograms are written as what each page added to each bucket.
"""

import gzip
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from advisor.readings import CacheConfig, EngineReading, Histogram

TOTALS = (
    "generation_tokens_total",
    "prompt_tokens_total",
    "preemptions_total",
    "prefix_cache_queries_total",
    "prefix_cache_hits_total",
)
HISTOGRAMS = ("prompt_tokens", "generation_tokens", "queue_seconds", "inter_token_seconds")
_FORMAT = 1

Half = Literal["tuning", "held out"]
"""Whether it may shape the model, or only judge it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recording:
    """One stretch of one server's life under one kind of load."""

    name: str
    half: Half
    load: str
    """What was offered, for people."""
    max_num_seqs: int
    pages: tuple[tuple[float, EngineReading], ...]
    """(seconds since the first, what the page said)."""


def written(recording: Recording) -> bytes:
    """Return the file's content."""
    first = recording.pages[0][1]
    bounds = {name: list(first.histograms[name].bounds[:-1]) for name in HISTOGRAMS}
    header = {
        "format": _FORMAT,
        "name": recording.name,
        "half": recording.half,
        "load": recording.load,
        "max_num_seqs": recording.max_num_seqs,
        "vllm_version": first.vllm_version,
        "max_model_len": first.max_model_len,
        "num_gpu_blocks": first.cache.num_gpu_blocks,
        "block_size": first.cache.block_size,
        "kv_cache_size_tokens": first.cache.kv_cache_size_tokens,
        "bounds": bounds,
    }
    lines = [header]
    before: dict[str, Histogram] = {}
    for seconds, page in recording.pages:
        lines.append(_line(seconds, page, before))
        before = dict(page.histograms)
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as file:  # the same recording is the same bytes
        file.write(text.encode())
    return packed.getvalue()


def _line(seconds: float, page: EngineReading, before: Mapping[str, Histogram]) -> Any:
    usage = page.kv_usage_ratio
    levels = [page.requests_running, page.requests_waiting, None if usage is None else round(usage, 6)]
    totals = [page.totals[name] for name in TOTALS]
    added = [_added(page.histograms[name], before.get(name)) for name in HISTOGRAMS]
    return [round(seconds, 3), *levels, totals, added]


def _added(now: Histogram, before: Histogram | None) -> list[Any]:
    old = [0.0] * len(now.bounds) if before is None else _single(before.cumulative)
    counts = zip(_single(now.cumulative), old, strict=True)
    return [round(now.sum, 6), [[place, new - was] for place, (new, was) in enumerate(counts) if new != was]]


def _single(cumulative: Sequence[float]) -> list[float]:
    return [late - early for early, late in zip((0.0, *cumulative[:-1]), cumulative, strict=True)]


def read(path: Path) -> Recording:
    """Read a file back.

    Raises:
        ValueError: It is of another format.
    """
    header, *lines = map(json.loads, gzip.decompress(path.read_bytes()).splitlines())
    if header.get("format") != _FORMAT:
        raise ValueError(f"{path}: not a recording of format {_FORMAT}")
    bounds = {name: (*header["bounds"][name], math.inf) for name in HISTOGRAMS}
    counts = {name: [0.0] * len(each) for name, each in bounds.items()}
    pages = []
    for seconds, running, waiting, usage, totals, added in lines:
        histograms = {}
        for name, (total, changes) in zip(HISTOGRAMS, added, strict=True):
            for place, more in changes:
                counts[name][place] += more
            histograms[name] = _histogram(bounds[name], counts[name], total)
        pages.append(
            (
                seconds,
                EngineReading(
                    engine="recorded",
                    url="http://127.0.0.1:8000",
                    model_name="tiny",
                    dp_rank="0",
                    vllm_version=header["vllm_version"],
                    max_model_len=header["max_model_len"],
                    requests_running=running,
                    requests_waiting=waiting,
                    kv_usage_ratio=usage,
                    cache=CacheConfig(
                        num_gpu_blocks=header["num_gpu_blocks"],
                        block_size=header["block_size"],
                        kv_cache_size_tokens=header["kv_cache_size_tokens"],
                    ),
                    totals=dict(zip(TOTALS, totals, strict=True)),
                    histograms=histograms,
                    started_at_seconds=0.0,
                ),
            )
        )
    return Recording(
        name=header["name"],
        half=header["half"],
        load=header["load"],
        max_num_seqs=header["max_num_seqs"],
        pages=tuple(pages),
    )


def _histogram(bounds: tuple[float, ...], counts: Iterable[float], total: float) -> Histogram:
    cumulative, so_far = [], 0.0
    for each in counts:
        so_far += each
        cumulative.append(so_far)
    return Histogram(bounds=bounds, cumulative=tuple(cumulative), sum=total, count=so_far)
