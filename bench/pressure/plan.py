"""What is recorded: which servers, and what each of them is offered."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from advisor.whatif import TracedRequest, fitted, rescaled
from bench.fidelity.server import QUICK_FLAGS
from bench.pressure.recording import Half
from exporter.sources.trace import read_trace

TRACE = Path(__file__).parent / "azure_2023_conversations.csv"
LENGTHS_RATIO = 0.5
"""The trace's lengths are for a context of 16k, the tiny model's is 4k."""
MAX_MODEL_LEN = 4096
BLOCK_SIZE = 32
SECONDS = 150.0
REAL_HORIZON_SECONDS = 30.0
"""What comes within the default of 300 s could not be told from a recording of two and a half minutes."""
_WARM_UP_REQUESTS = 24


def _trace() -> Sequence[TracedRequest]:
    return fitted(rescaled(read_trace(TRACE), lengths=LENGTHS_RATIO), MAX_MODEL_LEN)[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Offered:
    """A stretch of the trace played at a speed that goes evenly from one value to another."""

    begin: int
    """First request of the trace."""
    speeds: tuple[float, float]
    """As many times as fast as it came, at the beginning and at the end."""

    @property
    def words(self) -> str:
        """Return what is offered, for people."""
        first, last = self.speeds
        return f"trace x {first:g}" if first == last else f"trace x {first:g} to x {last:g}"

    def requests(self) -> Iterator[TracedRequest]:
        """Yield the requests with their times since the beginning of the stretch."""
        trace = _trace()
        first, last = self.speeds
        now, before = 0.0, trace[self.begin].seconds
        for each in trace[self.begin :]:
            now += (each.seconds - before) / (first + (last - first) * min(1.0, now / SECONDS))
            before = each.seconds
            if now > SECONDS:
                return
            yield TracedRequest(seconds=now, prompt_tokens=each.prompt_tokens, output_tokens=each.output_tokens)


@dataclass(frozen=True, kw_only=True, slots=True)
class Users:
    """So many clients that send the trace's requests one after another, whatever its pace was."""

    users: int
    begin: int
    """First request of the trace."""

    @property
    def words(self) -> str:
        """Return what is offered, for people."""
        return f"{self.users} clients, the trace's requests one after another"

    def requests(self) -> Iterator[TracedRequest]:
        """Yield the requests."""
        yield from _trace()[self.begin :]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stretch:
    """One recording to be."""

    name: str
    half: Half
    offered: Offered | Users


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """One server and what it is offered, one after the other."""

    max_num_seqs: int
    num_gpu_blocks: int
    stretches: tuple[Stretch, ...]

    @property
    def flags(self) -> Sequence[str]:
        """Return its command line beyond the model."""
        return (
            *("--num-gpu-blocks-override", str(self.num_gpu_blocks), "--block-size", str(BLOCK_SIZE)),
            *("--max-model-len", str(MAX_MODEL_LEN), "--max-num-seqs", str(self.max_num_seqs)),
            *QUICK_FLAGS,
        )


def warm_up() -> Sequence[TracedRequest]:
    """Return what a fresh server is given first: its first steps take seconds each and are no part of the load."""
    return tuple(islice(cycle(Offered(begin=0, speeds=(1.0, 1.0)).requests()), _WARM_UP_REQUESTS))


def _stretch(name: str, half: Half, begin: int, *speeds: float) -> Stretch:
    return Stretch(name=name, half=half, offered=Offered(begin=begin, speeds=(speeds[0], speeds[-1])))


def _users(users: int, begin: int) -> Stretch:
    return Stretch(name=f"{users}-users", half="held out", offered=Users(users=users, begin=begin))


SERVERS: tuple[Server, ...] = (
    Server(
        max_num_seqs=64,
        num_gpu_blocks=385,
        stretches=(
            _stretch("64-seqs-x1.7", "held out", 0, 1.7),
            _stretch("64-seqs-x2", "held out", 1500, 2.0),
            _stretch("64-seqs-x1.4", "held out", 3200, 1.4),
        ),
    ),
    Server(
        max_num_seqs=64,
        num_gpu_blocks=385,
        stretches=(
            _stretch("64-seqs-rising", "held out", 4200, 1.0, 2.6),
            _stretch("64-seqs-falling", "held out", 5600, 2.4, 1.0),
            _stretch("64-seqs-x1", "held out", 7000, 1.0),
        ),
    ),
    Server(
        max_num_seqs=12,
        num_gpu_blocks=385,
        stretches=(
            _stretch("12-seqs-x1.8", "held out", 800, 1.8),
            _stretch("12-seqs-rising", "held out", 2400, 1.0, 3.0),
        ),
    ),
    Server(max_num_seqs=24, num_gpu_blocks=385, stretches=(_stretch("24-seqs-x2.2", "held out", 6000, 2.2),)),
    Server(
        max_num_seqs=64,
        num_gpu_blocks=385,
        stretches=(_users(16, 5000), _users(13, 1100), _users(10, 3000)),
    ),
    Server(max_num_seqs=64, num_gpu_blocks=385, stretches=(_users(24, 4000), _users(14, 200))),
)
