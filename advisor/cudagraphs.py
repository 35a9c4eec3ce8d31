"""Which batch sizes vLLM captures as CUDA graphs, release by release.

Sources: ``worker/model_runner.py`` (V0), ``config.py`` / ``config/vllm.py:_set_cudagraph_sizes`` and
``v1/cudagraph_dispatcher.py`` (V1) of the releases 0.6.3 to 0.33.0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from advisor.flags import EngineFlags
from advisor.traits import ModelTraits
from advisor.versions import Version

CudagraphMode = Literal["NONE", "PIECEWISE", "FULL", "FULL_DECODE_ONLY", "FULL_AND_PIECEWISE"]
_MODES: tuple[CudagraphMode, ...] = ("NONE", "PIECEWISE", "FULL", "FULL_DECODE_ONLY", "FULL_AND_PIECEWISE")

_LARGEST = 512
_MOST_TOKENS = 1 << 20
_LARGEST_OF_BLACKWELL = 1024


def cudagraph_mode(
    flags: EngineFlags, *, version: Version, is_v1: bool, is_cpu: bool, traits: ModelTraits, enforce_eager: bool
) -> CudagraphMode:
    """Return what is captured.

    V0 captures whole decode steps; V1 pieces between attention calls, and from 0.11 whole decode steps beside them,
    except where the model or the parallelism does not allow it. An attention backend that cannot capture whole steps
    lowers that further when the server starts, as FlashInfer does with speculative decoding; that is not told here.
    """
    given: dict[str, Any] = dict(flags.compilation_config or {})
    level = given.get("mode", given.get("level"))
    if enforce_eager or is_cpu:
        return "NONE"
    if not is_v1:
        return "FULL_DECODE_ONLY"
    if level is not None and (level == 0 or (version < (0, 12, 0) and level != 3)):
        return "NONE"
    named = str(given.get("cudagraph_mode") or "").upper()
    mode = next((each for each in _MODES if each == named), None) or _default_mode(version, traits, level)
    if given.get("full_cuda_graph") and version < (0, 12, 0):
        mode = "FULL"
    if not mode.startswith("FULL") or version < (0, 11, 0):
        return mode
    if traits.is_pooling:
        return "PIECEWISE"
    if traits.is_encoder_decoder:
        return "FULL_DECODE_ONLY" if version >= (0, 14, 0) else "PIECEWISE"
    splits_context = (flags.decode_context_parallel_size or 1) > 1 or (flags.prefill_context_parallel_size or 1) > 1
    return "PIECEWISE" if (0, 12, 0) <= version < (0, 14, 0) and splits_context else mode


def _default_mode(version: Version, traits: ModelTraits, level: Any) -> CudagraphMode:
    if version < (0, 11, 0):
        is_stateful = traits.is_hybrid or traits.is_attention_free
        plain = traits.architecture in ("Lfm2ForCausalLM", "MiniMaxText01ForCausalLM")
        return "FULL_AND_PIECEWISE" if version >= (0, 10, 2) and is_stateful and not plain else "PIECEWISE"
    return "PIECEWISE" if version >= (0, 12, 0) and level == 1 else "FULL_AND_PIECEWISE"


def capture_sizes(
    version: Version,
    *,
    max_num_seqs: int,
    max_num_batched_tokens: int,
    flags: EngineFlags | None = None,
    mode: CudagraphMode = "FULL_AND_PIECEWISE",
    num_speculative_tokens: int = 0,
    is_v1: bool = True,
    is_datacentre_blackwell: bool = False,
) -> tuple[int, ...]:
    """Return the batch sizes in tokens that are captured, ascending; empty without graphs.

    Args:
        version: vLLM's release.
        max_num_seqs: As resolved.
        max_num_batched_tokens: As resolved; nothing larger is captured from 0.8.5 on.
        flags: The command line, where it may name sizes or the largest one.
        mode: What is captured.
        num_speculative_tokens: Tokens drafted a request and step.
        is_v1: Which engine; V0 captures up to max_num_seqs.
        is_datacentre_blackwell: Compute capability 10.x, whose largest size is 1,024 from 0.29 (0.28 not read).

    Raises:
        ValueError: Absurdly large ones are asked for.
    """
    flags = flags or EngineFlags()
    if mode == "NONE":
        return ()
    given = given_sizes(flags)
    if not is_v1:
        possible = (1, 2, 4, *range(8, 8193, 8))
        largest = next((size for size in possible if size >= max_num_seqs), possible[-1])
        return given or tuple(size for size in possible if size <= largest)
    if version < (0, 12, 0):
        return _sizes_by_eight(version, flags, given, max_num_seqs, max_num_batched_tokens)
    if given:
        return tuple(size for size in given if size <= max_num_batched_tokens)
    query = 1 + (num_speculative_tokens if version >= (0, 13, 0) else 0)
    ceiling = _LARGEST_OF_BLACKWELL if is_datacentre_blackwell and version >= (0, 28, 0) else _LARGEST
    named = flags.max_cudagraph_capture_size or (flags.compilation_config or {}).get("max_cudagraph_capture_size")
    largest = named or min(2 * query * max_num_seqs, ceiling)
    decode: Sequence[int] = ()
    if not named and version >= (0, 28, 0):
        if query > 1:
            decode = [query * count for count in _requests(min(max_num_seqs, ceiling)) if query * count <= largest]
        elif version >= (0, 32, 0) and max_num_seqs <= largest:  # 0.30 and 0.31 not read
            decode = (max_num_seqs,)
    largest = _possible(min(largest, max_num_batched_tokens))
    sizes = {size for size in (1, 2, 4) if size <= largest} | set(_stepped(largest))
    if flags.performance_mode == "interactivity" and version >= (0, 17, 0):
        sizes |= set(range(1, min(largest, 32) + 1))
    if version >= (0, 21, 0) and max_num_batched_tokens <= largest:
        sizes.add(max_num_batched_tokens)
    return tuple(sorted(sizes | {size for size in decode if size <= max_num_batched_tokens}))


def given_sizes(flags: EngineFlags) -> tuple[int, ...]:
    """Return the sizes that a command line names, ascending; empty where it names none."""
    sizes = flags.cudagraph_capture_sizes or (flags.compilation_config or {}).get("cudagraph_capture_sizes") or ()
    return tuple(sorted(set(sizes)))


def _sizes_by_eight(
    version: Version, flags: EngineFlags, given: tuple[int, ...], max_num_seqs: int, max_num_batched_tokens: int
) -> tuple[int, ...]:
    """V1 through 0.11: every eighth size up to 512, from 0.10 (0.10.0 and 0.10.1 not read) to twice max_num_seqs."""
    named = flags.cuda_graph_sizes or ()
    largest = min(2 * max_num_seqs, _LARGEST) if version >= (0, 10, 0) else _LARGEST
    if len(named) == 1:
        largest = _possible(named[0] if version < (0, 8, 5) else min(named[0], max_num_batched_tokens))
    sizes = given or (tuple(sorted(named)) if len(named) > 1 else (1, 2, 4, *range(8, largest + 1, 8)))
    return tuple(size for size in sizes if version < (0, 8, 5) or size <= max_num_batched_tokens)


def _possible(largest: int) -> int:
    if largest > _MOST_TOKENS:
        raise ValueError(f"CUDA graphs up to {largest} tokens: each size is a graph, and no GPU holds so many")
    return largest


def _stepped(largest: int) -> list[int]:
    """Every eighth size below 256, every sixteenth from there."""
    return [*range(8, min(largest + 1, 256), 8), *range(256, largest + 1, 16)]


def _requests(largest: int) -> list[int]:
    return sorted({size for size in (1, 2, 4) if size <= largest} | set(_stepped(largest)) | {largest})


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphCount:
    """How many graphs of each kind are captured, and the largest of each in tokens."""

    piecewise: int
    full: int
    largest_piecewise: int
    largest_full: int


def graph_count(
    version: Version,
    sizes: Sequence[int],
    mode: CudagraphMode,
    *,
    max_num_seqs: int,
    num_speculative_tokens: int = 0,
    enable_lora: bool = False,
) -> GraphCount:
    """Return how many graphs are captured, as ``Profiling CUDA graph memory: PIECEWISE=51 (largest=512), ...`` says.

    Whole decode steps are captured only up to ``max_num_seqs`` requests. With LoRA every graph is captured twice from
    0.12 on, with and without an adapter.
    """
    cases = 2 if enable_lora and version >= (0, 12, 0) else 1
    query = 1 + num_speculative_tokens
    decode = [size for size in sizes if query <= size <= max_num_seqs * query]
    piecewise = list(sizes) if mode in ("PIECEWISE", "FULL_AND_PIECEWISE") else []
    full = {"FULL": list(sizes), "FULL_DECODE_ONLY": decode, "FULL_AND_PIECEWISE": decode}.get(mode, [])
    if mode == "FULL_DECODE_ONLY" and version < (0, 11, 0):
        full = list(sizes)
    return GraphCount(
        piecewise=cases * len(piecewise),
        full=cases * len(full),
        largest_piecewise=max(piecewise, default=0),
        largest_full=max(full, default=0),
    )
