"""The requests of a load test or a simulation: from a trace, or made up from a few numbers."""

import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from pathlib import Path

from advisor.readings import Histogram
from advisor.whatif import TracedRequest, drawn_lengths, rescaled
from exporter.errors import UsageError
from exporter.sources.trace import read_trace

_LOWEST_ID, _HIGHEST_ID = 100, 999
"""Token ids that every vocabulary has and that are no control tokens in those known."""


def traced(
    path: Path, *, limit: int | None, lengths: float, speed: float | None, rate: float | None
) -> tuple[TracedRequest, ...]:
    """Return the first ``limit`` requests of a trace, scaled.

    Raises:
        UsageError: The file is no trace, or the factors do not suit it.
    """
    if speed is not None and rate is not None:
        raise UsageError("--speed and --rate: both say how fast the requests arrive, give one")
    try:
        return rescaled(read_trace(path, limit=limit), lengths=lengths, speed=speed or 1.0, rate=rate)
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from error


def made_up(
    *, count: int, rate: float, prompt_tokens: int, output_tokens: int, chance: random.Random
) -> tuple[TracedRequest, ...]:
    """Return requests of one size that arrive independently of each other, ``rate`` a second on average."""
    return _arriving(repeat((prompt_tokens, output_tokens), count), rate, chance)


def like_observed(
    prompt: Histogram | None, output: Histogram | None, *, count: int, rate: float, chance: random.Random
) -> tuple[TracedRequest, ...] | None:
    """Return requests whose lengths are spread like those a server has finished; None where it has finished none.

    Prompt and output are drawn independently: the server's histograms do not say how they go together.
    """
    if prompt is None or output is None or not prompt.count or not output.count:
        return None
    lengths = zip(
        drawn_lengths(prompt, [chance.random() for _ in range(count)]),
        drawn_lengths(output, [chance.random() for _ in range(count)]),
        strict=True,
    )
    return _arriving(lengths, rate, chance)


def _arriving(lengths: Iterable[tuple[int, int]], rate: float, chance: random.Random) -> tuple[TracedRequest, ...]:
    seconds = 0.0
    found = []
    for prompt_tokens, output_tokens in lengths:
        found.append(TracedRequest(seconds=seconds, prompt_tokens=prompt_tokens, output_tokens=output_tokens))
        seconds += chance.expovariate(rate)
    return tuple(found)


def prompts(
    trace: Sequence[TracedRequest], *, shared_prefix_tokens: int, chance: random.Random
) -> Iterator[tuple[int, ...]]:
    """Yield the token ids of each request's prompt: random, so that nothing is found in the prefix cache by chance."""
    shared = chance.choices(range(_LOWEST_ID, _HIGHEST_ID), k=shared_prefix_tokens)
    for each in trace:
        prefix = shared[: each.prompt_tokens]
        own = chance.choices(range(_LOWEST_ID, _HIGHEST_ID), k=each.prompt_tokens - len(prefix))
        yield (*prefix, *own)


def numbers(text: str, name: str, *, most: int) -> tuple[int, ...]:
    """Read ``16,32,64``, in the order given and each once.

    Raises:
        UsageError: One is not a whole number from 1 to ``most``.
    """
    found: list[int] = []
    for word in text.split(","):
        value = int(word) if word.strip().isdecimal() else 0
        if not 1 <= value <= most:
            raise UsageError(f"{name}: {word.strip()!r} is not a whole number from 1 to {most:,}")
        if value not in found:
            found.append(value)
    return tuple(found)
