"""What one run came to, in counts, and the file that holds all of them."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RUNS = Path(__file__).parent / "runs.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One workload served once by a server with one max_num_seqs. Counts are of the run alone."""

    workload: str
    max_num_seqs: int
    repetition: int
    """0 is the run that was observed, on requests of its own; from 1 on they are those to judge by."""
    requests: int
    completed: int
    prompt_tokens: float
    """As are the next ones, by the server's own counters."""
    output_tokens: float
    steps: float
    """Engine steps: how often ``vllm:iteration_tokens_total`` was observed."""
    preemptions: float
    recomputed_tokens: int | None
    """Tokens scheduled beyond what the prompts, less what the prefix cache had, and the outputs need."""
    mean_running: float | None
    """Weighed by steps."""
    longest_stall_steps: float
    """Engine steps between two tokens of one answer, at most."""
    longest_stall_seconds: float
    median_gap_seconds: float | None
    """Between two tokens of one answer: a step, as its client sees it."""
    engine_cpu_seconds: float
    """Of the engine's own processes, without the HTTP server's."""
    wall_seconds: float
    began: str
    """UTC."""
    vllm_version: str | None
    max_num_batched_tokens: int | None
    gap_p99_seconds: float | None = None
    """Between two tokens of one answer. Runs written down before these were counted have none of the five."""
    first_token_p95_seconds: float | None = None
    latency_p50_seconds: float | None = None
    """From sending a request to the end of its answer, as are the next two."""
    latency_p95_seconds: float | None = None
    latency_p95_steps: float | None = None
    """In engine steps, which a busy machine does not stretch."""
    load: Mapping[str, Any] | None = None
    """Of an observed run: what the daemon would have saved of it, as in `advisor.load.to_json`."""

    @property
    def complete(self) -> bool:
        """Whether the same work was finished as in every other run."""
        return self.completed == self.requests

    @property
    def output_tokens_per_second(self) -> float:
        """Throughput by the clock on the wall."""
        return self.output_tokens / self.wall_seconds

    @property
    def preempted_ratio(self) -> float:
        """Preemptions over requests."""
        return self.preemptions / self.requests


def read_runs(file: Path = RUNS) -> list[Run]:
    """Return the runs made so far, in the order they were made; none without a file."""
    if not file.exists():
        return []
    return [Run(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines() if line]


def append_run(run: Run, file: Path = RUNS) -> None:
    """Write a run down; what was written before stays whatever happens next."""
    plain = {name: value for name, value in dataclasses.asdict(run).items() if name != "load" or value is not None}
    with file.open("a", encoding="utf-8") as output:
        output.write(json.dumps(plain, sort_keys=True) + "\n")
