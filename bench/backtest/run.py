"""All histories of all kinds, judged in parallel; the result depends on the number of seeds only."""

from collections.abc import Mapping
from multiprocessing import get_context

from advisor.policy import Policy
from bench.backtest.held_out import HELD_OUT
from bench.backtest.kinds import SHAPING, Kind
from bench.backtest.score import HistoryScore, play

KINDS: dict[str, Kind] = SHAPING | HELD_OUT
Scores = Mapping[str, list[HistoryScore]]


def run(kinds: Mapping[str, Kind], *, seeds: int, processes: int, policy: Policy) -> Scores:
    """Judge so many histories of each kind."""
    work = [(name, str(seed), policy) for name in kinds for seed in range(seeds)]
    if processes == 1:
        scores = [_play(each) for each in work]
    else:
        with get_context("spawn").Pool(processes) as pool:
            scores = pool.map(_play, work, chunksize=4)
    return {name: scores[number * seeds : (number + 1) * seeds] for number, name in enumerate(kinds)}


def _play(work: tuple[str, str, Policy]) -> HistoryScore:
    name, seed, policy = work
    return play(KINDS[name], seed, policy)
