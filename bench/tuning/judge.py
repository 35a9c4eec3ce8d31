"""How far what is advised lies from the best of the sweep, in counts. Pure: runs in, figures out."""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from advisor.load import from_json
from advisor.policy import Policy
from advisor.tuning import SeqsAdvice, Surroundings, recommend_seqs
from bench.tuning.runs import Run
from bench.tuning.workloads import BLOCK_TOKENS, CAPACITY_TOKENS, MAX_MODEL_LEN, Workload

POLICY = Policy(advice_least_busy_seconds=2.0)
"""As shipped, but for the ten minutes of load that it waits for: a workload here is over in one or two."""
WRONG_SETTINGS = (64, 4)
"""What is observed: far too large and far too small."""
BY_MAX_MODEL_LEN = CAPACITY_TOKENS // MAX_MODEL_LEN
"""What one usual formula says."""
MOST_PREEMPTED_RATIO = 0.01
"""A setting that preempts more of its requests is not called the best."""


def by_mean_length(workload: Workload) -> int:
    """Return what the other usual formula says: as many requests of mean length as the KV cache holds."""
    return int(CAPACITY_TOKENS / workload.mean_tokens)


def advice(runs: Iterable[Run], workload: str, start: int) -> SeqsAdvice | None:
    """Return what is advised from the run that was observed at a setting; None without one, or where it is silent.

    What was said while that run was still going on is forgotten: judged is the last word, not its inertia.
    """
    seen = [run for run in runs if (run.workload, run.max_num_seqs, run.repetition) == (workload, start, 0)]
    if not seen or seen[-1].load is None:
        return None
    (load,) = from_json([seen[-1].load]).values()
    around = Surroundings(
        current=start,
        capacity_tokens=lambda _number: CAPACITY_TOKENS,  # fixed by a flag: no sampler memory comes out of it
        block_size=BLOCK_TOKENS,
        max_model_len=MAX_MODEL_LEN,
        max_num_batched_tokens=seen[-1].max_num_batched_tokens,
    )
    return recommend_seqs(replace(load, advised=None), around, POLICY)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """All runs of one workload at one setting."""

    max_num_seqs: int
    runs: tuple[Run, ...]

    @property
    def steps(self) -> float:
        """Mean engine steps of a run."""
        return statistics.mean(run.steps for run in self.runs)

    @property
    def mean_running(self) -> list[float | None]:
        """Requests that ran on average, of each run."""
        return [run.mean_running for run in self.runs]

    @property
    def preempted_ratio(self) -> float:
        """Preemptions over requests."""
        return sum(run.preemptions for run in self.runs) / sum(run.requests for run in self.runs)

    @property
    def recomputed_ratio(self) -> float | None:
        """Tokens computed again over prompt and output tokens; None where the log told nothing."""
        again = [run.recomputed_tokens for run in self.runs]
        tokens = sum(run.prompt_tokens + run.output_tokens for run in self.runs)
        return None if None in again else sum(each for each in again if each is not None) / tokens

    @property
    def stall_steps(self) -> float:
        """Longest stall of all runs; 0 where nobody was preempted.

        Who runs gets a token in every step, so without preemptions what clients saw is how slow they were to read.
        """
        return max(run.longest_stall_steps if run.preemptions else 0.0 for run in self.runs)

    @property
    def engine_cpu_seconds(self) -> float:
        """Mean of the runs."""
        return statistics.mean(run.engine_cpu_seconds for run in self.runs)


Cells = Mapping[int, Cell]
"""By max_num_seqs."""


def cells(runs: Iterable[Run], workload: str) -> dict[int, Cell]:
    """Return what a workload came to at each setting, ascending, from its complete runs."""
    found: dict[int, list[Run]] = {}
    for run in runs:
        if run.workload == workload and run.repetition > 0 and run.complete:
            found.setdefault(run.max_num_seqs, []).append(run)
    return {setting: Cell(max_num_seqs=setting, runs=tuple(found[setting])) for setting in sorted(found)}


def best(found: Cells) -> Cell | None:
    """Return the setting with the fewest steps of those that preempt few; None where there is none."""
    calm = [cell for cell in found.values() if cell.preempted_ratio <= MOST_PREEMPTED_RATIO]
    return min(calm, key=lambda cell: (cell.steps, cell.max_num_seqs), default=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Regret:
    """What one setting costs beside the best one."""

    max_num_seqs: int
    steps_ratio: float
    """Steps over the best's, less 1; below 0 only where more is preempted than the best may."""
    preempted_ratio: float
    stall_steps: float
    """Longest stall, and that of the best."""
    best_stall_steps: float


def regret(found: Cells, max_num_seqs: int) -> Regret | None:
    """Compare a setting with the best; None where either was not measured."""
    cell, least = found.get(max_num_seqs), best(found)
    if cell is None or least is None:
        return None
    return Regret(
        max_num_seqs=max_num_seqs,
        steps_ratio=cell.steps / least.steps - 1,
        preempted_ratio=cell.preempted_ratio,
        stall_steps=cell.stall_steps,
        best_stall_steps=least.stall_steps,
    )


def gain_shown(found: Cells, *, current: int, recommended: int) -> bool | None:
    """Tell whether what a change was advised for came true in every repetition; None where it was not measured.

    Lowering is advised for fewer preemptions, raising for fewer engine steps. Preemptions are rare, so they must also
    have become fewer by more than two standard deviations of such counts (Poisson's): 8 and then 7 show nothing.
    """
    if current not in found or recommended not in found:
        return None
    pairs = _paired(found[current], found[recommended])
    if recommended < current:
        was, became = (sum(pair[place].preemptions for pair in pairs) for place in (0, 1))
        fewer = all(after.preemptions < before.preemptions for before, after in pairs)
        return fewer and was - became > 2 * math.sqrt(was + became)
    return all(after.steps < before.steps for before, after in pairs)


def paired_ratios(
    found: Cells, figure: Callable[[Run], float | None], *, current: int, recommended: int
) -> Sequence[float]:
    """Return a figure at the recommended setting over that at the current one, repetition by repetition, ascending."""
    if current not in found or recommended not in found:
        return ()
    pairs = [(figure(before), figure(after)) for before, after in _paired(found[current], found[recommended])]
    return sorted(after / before for before, after in pairs if before and after is not None)


def spreads(found: Iterable[Cell], figure: Callable[[Run], float | None]) -> Sequence[float]:
    """Return the largest figure over the smallest, less 1, of each cell of two runs or more, ascending: the noise."""
    spread = []
    for cell in found:
        figures = [each for run in cell.runs if (each := figure(run)) is not None]
        if len(figures) >= 2 and min(figures) > 0:
            spread.append(max(figures) / min(figures) - 1)
    return sorted(spread)


def _paired(one: Cell, other: Cell) -> list[tuple[Run, Run]]:
    others = {run.repetition: run for run in other.runs}
    return [(run, others[run.repetition]) for run in one.runs if run.repetition in others]
