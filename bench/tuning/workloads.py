"""The loads: real traffic at several scalings, fixed lengths, two kinds, bursts, a shared prefix, mostly decoding.

Each has two parts drawn from the same source: one that is observed and one, half as long, that is judged by, so that
advice is never judged by the requests it was learnt from. Of the trace every third row of one stretch is to judge by:
an hour later traffic may be another, and no advice could foresee that.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from advisor.whatif import TracedRequest, fitted, rescaled
from exporter.sources.trace import read_trace

BLOCKS, BLOCK_TOKENS, MAX_MODEL_LEN = 96, 128, 2048
CAPACITY_TOKENS = BLOCKS * BLOCK_TOKENS
_TRACE = Path(__file__).parent / "conversation.csv"
_SPEED = 200.0
"""How much faster than recorded the trace is played: everything has arrived within seconds."""

Part = Literal["observed", "judged"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """Requests, and how they come."""

    name: str
    what: str
    """For people."""
    groups: tuple[tuple[TracedRequest, ...], ...]
    """One after another: a group begins when the one before is answered."""
    users: int | None = None
    """Clients that send one request after another; None: every request when it is due."""
    shared_prefix_tokens: int = 0

    def repeated(self, rounds: int) -> "Workload":
        """Return the same requests so many times, one round due after the other."""
        lasts = max(each.seconds for group in self.groups for each in group) + 1
        if self.users is None:
            (group,) = self.groups
            later = (replace(each, seconds=each.seconds + lasts * turn) for turn in range(rounds) for each in group)
            return replace(self, groups=(tuple(later),))
        return replace(self, groups=self.groups * rounds)

    @property
    def requests(self) -> tuple[TracedRequest, ...]:
        """All of them."""
        return tuple(each for group in self.groups for each in group)

    @property
    def mean_tokens(self) -> float:
        """Mean of prompt and output together."""
        return sum(each.prompt_tokens + each.output_tokens for each in self.requests) / len(self.requests)


def workloads(part: Part) -> dict[str, Workload]:
    """Return all loads by name: the requests to observe, or those to judge by."""
    return {name: make(part) for name, make in _MAKERS.items()}


def _conversation(part: Part, *, first: int, count: int, lengths: float) -> tuple[TracedRequest, ...]:
    """Return ``count`` requests to judge by of the trace from its row ``first`` on, or those between them."""
    rows = read_trace(_TRACE)[first:]
    served, _ = fitted(rescaled(rows, lengths=lengths, speed=_SPEED), MAX_MODEL_LEN)
    chosen = [each for place, each in enumerate(served[: 3 * count]) if (place % 3 == 2) == (part == "judged")]
    begin = chosen[0].seconds
    return tuple(replace(each, seconds=each.seconds - begin) for each in chosen)


def _drawn(part: Part, seed: int, count: int, draw: Callable[[random.Random], tuple[int, int]]) -> list[TracedRequest]:
    """Return ``count`` requests to judge by, or twice as many to observe."""
    chance = random.Random(f"{seed} {part}")  # noqa: S311 - lengths of made-up requests
    lengths = [draw(chance) for _ in range(count if part == "judged" else 2 * count)]
    return [TracedRequest(seconds=0.0, prompt_tokens=prompt, output_tokens=output) for prompt, output in lengths]


def _one_group(requests: Sequence[TracedRequest]) -> tuple[tuple[TracedRequest, ...], ...]:
    return (tuple(requests),)


def _half(part: Part) -> Workload:
    return Workload(
        name="conversation x 0.5",
        what="lengths and arrivals of the trace, lengths halved",
        groups=_one_group(_conversation(part, first=0, count=160, lengths=0.5)),
    )


def _quarter(part: Part) -> Workload:
    return Workload(
        name="conversation x 0.25",
        what="another stretch of the trace, lengths quartered",
        groups=_one_group(_conversation(part, first=480, count=240, lengths=0.25)),
    )


def _whole(part: Part) -> Workload:
    return Workload(
        name="conversation x 1",
        what="a third stretch, lengths as recorded; prompts beyond the context left out",
        groups=_one_group(_conversation(part, first=1000, count=110, lengths=1.0)),
    )


def _fixed(part: Part) -> Workload:
    requests = _drawn(part, 1, 150, lambda _chance: (300, 100))
    return Workload(name="fixed lengths", what="prompts of 300, outputs of 100 tokens", groups=_one_group(requests))


def _two_kinds(part: Part) -> Workload:
    def draw(chance: random.Random) -> tuple[int, int]:
        return (900, 250) if chance.random() < 0.25 else (60, 50)

    return Workload(
        name="short and long",
        what="three of four requests 60 + 50 tokens, one 900 + 250",
        groups=_one_group(_drawn(part, 2, 160, draw)),
    )


def _bursts(part: Part) -> Workload:
    requests = _conversation(part, first=500, count=160, lengths=0.5)
    return Workload(
        name="bursts",
        what="40 requests at once, the next 40 when they are answered; lengths of the trace, halved",
        groups=tuple(requests[begin : begin + 40] for begin in range(0, len(requests), 40)),
        users=40,
    )


def _prefix(part: Part) -> Workload:
    def draw(chance: random.Random) -> tuple[int, int]:
        return 512 + chance.randint(20, 180), chance.randint(60, 180)

    return Workload(
        name="shared prefix",
        what="512 tokens that all prompts begin with, 20 to 180 of their own, outputs of 60 to 180",
        groups=_one_group(_drawn(part, 3, 140, draw)),
        shared_prefix_tokens=512,
    )


def _decode(part: Part) -> Workload:
    def draw(chance: random.Random) -> tuple[int, int]:
        return chance.randint(10, 50), min(900, max(40, int(chance.lognormvariate(5.0, 0.6))))

    return Workload(
        name="mostly decoding",
        what="prompts of 10 to 50 tokens, log-normal outputs around 150",
        groups=_one_group(_drawn(part, 4, 120, draw)),
    )


def _ten_users(part: Part) -> Workload:
    return Workload(
        name="ten users",
        what="ten clients that wait for each answer; lengths of the trace, quartered",
        groups=_one_group(_conversation(part, first=750, count=150, lengths=0.25)),
        users=10,
    )


_MAKERS: dict[str, Callable[[Part], Workload]] = {
    make("judged").name: make
    for make in (_half, _quarter, _whole, _fixed, _two_kinds, _bursts, _prefix, _decode, _ten_users)
}
