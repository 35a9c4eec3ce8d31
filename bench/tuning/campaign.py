"""Which runs are made, in which order: first what is observed, then the sweep, shuffled, with a restart each time."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.tuning.judge import WRONG_SETTINGS, advice, by_mean_length
from bench.tuning.runs import Run
from bench.tuning.workloads import Workload

SWEEP = (4, 6, 8, 12, 16, 24, 32, 64)
OBSERVED_ROUNDS = {64: 6, 4: 1}
"""How often the requests to observe come, at each wrong setting: about as many engine steps at both."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Visit:
    """One start of a server, and the workloads that it serves, in order."""

    repetition: int
    max_num_seqs: int
    workloads: tuple[str, ...]


def observing(runs: Iterable[Run], names: Iterable[str]) -> list[Visit]:
    """Return the visits that are still needed to observe each workload at each wrong setting."""
    made = {(run.workload, run.max_num_seqs) for run in runs if run.repetition == 0 and run.complete}
    names = tuple(names)
    visits = [
        Visit(
            repetition=0,
            max_num_seqs=setting,
            workloads=tuple(name for name in names if (name, setting) not in made),
        )
        for setting in WRONG_SETTINGS
    ]
    return [visit for visit in visits if visit.workloads]


def sweeping(runs: Sequence[Run], judged: Mapping[str, Workload], *, repetitions: int, seed: int = 1) -> list[Visit]:
    """Return the visits that are still needed for the sweep, repetition by repetition.

    Beside the settings of the sweep each workload is served with what was advised for it, so that a campaign cut off
    after any repetition can be judged. What a formula says, where that is none of these, comes last of all.
    """
    made = {(run.workload, run.max_num_seqs, run.repetition) for run in runs if run.complete}
    swept = {name: set(SWEEP) for name in judged}
    advised = {
        name: {said.recommended for start in WRONG_SETTINGS if (said := advice(runs, name, start)) is not None}
        - swept[name]
        for name in judged
    }
    formula = {name: {by_mean_length(load)} - swept[name] - advised[name] for name, load in judged.items()}
    visits = []
    for groups in ((swept, advised), (formula,)):
        for repetition in range(1, repetitions + 1):
            chance = random.Random(f"{seed} {repetition}")  # noqa: S311 - an order
            for settings in groups:
                order = sorted(set().union(*settings.values()))
                chance.shuffle(order)
                for setting in order:
                    names = [
                        name for name in judged if setting in settings[name] and (name, setting, repetition) not in made
                    ]
                    chance.shuffle(names)
                    if names:
                        visits.append(Visit(repetition=repetition, max_num_seqs=setting, workloads=tuple(names)))
    return visits
