"""How long an engine's steps take, from what its metrics say of the stretches between two looks at them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from advisor.simulate import StepTimeModel

DEFAULT_STEP_TIMES = StepTimeModel(
    base_seconds=0.025,
    per_prefill_token_seconds=9e-5,
    per_decode_request_seconds=1e-4,
    per_context_token_seconds=2.5e-7,
)
"""Of no particular GPU: the order of magnitude of an 8-billion-parameter model in 16 bits on one data-centre GPU."""

LEAST_STRETCHES = 8
"""Fewer do not tell four unknowns apart."""
_NOTHING = 1e-9
"""A pivot below this is rounding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stretch:
    """What an engine did between two looks, during all of which it was busy."""

    seconds: float
    steps: float
    prefill_tokens: float
    """Prompt tokens computed."""
    decode_tokens: float
    """Output tokens after each request's first."""
    context_tokens: float
    """Cached tokens attended to in decode, summed over the steps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTimeFit:
    """A model of step times and how well it tells what it was fitted to."""

    model: StepTimeModel
    stretches: int
    error_ratio: float
    """Mean absolute error of a stretch's seconds over the mean stretch."""


def fit_step_times(stretches: Sequence[Stretch]) -> StepTimeFit | None:
    """Return the step times that tell these stretches best, None where there are fewer than `LEAST_STRETCHES`.

    Least squares of the relative error, because a busy machine slows short and long stretches alike, with no negative
    part: of every subset of the four parts, the best whose solution is not negative.
    At the end all parts are scaled together so that the model's total is the observed one: what a simulation gets
    wrong must not be the overall pace.
    """
    useful = [stretch for stretch in stretches if stretch.steps > 0 and stretch.seconds > 0]
    if len(useful) < LEAST_STRETCHES:
        return None
    rows = [(each.steps, each.prefill_tokens, each.decode_tokens, each.context_tokens) for each in useful]
    seconds = [each.seconds for each in useful]
    # Columns of like size, or a product of tokens drowns the rest in rounding.
    sizes = [max(column) or 1.0 for column in zip(*rows, strict=True)]
    scaled = [[value / size for value, size in zip(row, sizes, strict=True)] for row in rows]
    best: tuple[float, list[float]] | None = None
    for count in range(1, 5):
        for chosen in combinations(range(4), count):
            chosen_rows = [[row[column] / took for column in chosen] for row, took in zip(scaled, seconds, strict=True)]
            solution = _least_squares(chosen_rows, [1.0] * len(seconds))
            if solution is None or min(solution) < 0:
                continue
            parts = [0.0] * 4
            for column, part in zip(chosen, solution, strict=True):
                parts[column] = part
            squares = sum((_told(parts, row) / took - 1) ** 2 for row, took in zip(scaled, seconds, strict=True))
            if best is None or squares < best[0]:
                best = squares, parts
    if best is None:
        return None
    parts = best[1]
    total = sum(_told(parts, row) for row in scaled)
    if total <= 0:
        return None
    pace = sum(seconds) / total
    parts = [part * pace for part in parts]
    misses = sum(abs(_told(parts, row) - took) for row, took in zip(scaled, seconds, strict=True))
    base, prefill, decode, context = (part / size for part, size in zip(parts, sizes, strict=True))
    return StepTimeFit(
        model=StepTimeModel(
            base_seconds=base,
            per_prefill_token_seconds=prefill,
            per_decode_request_seconds=decode,
            per_context_token_seconds=context,
        ),
        stretches=len(useful),
        error_ratio=misses / sum(seconds),
    )


def _told(parts: Sequence[float], row: Sequence[float]) -> float:
    return sum(part * value for part, value in zip(parts, row, strict=True))


def _least_squares(rows: Sequence[Sequence[float]], wanted: Sequence[float]) -> list[float] | None:
    """Solve the normal equations by elimination; None where columns depend on each other."""
    width = len(rows[0])
    matrix = [
        [sum(row[i] * row[j] for row in rows) for j in range(width)]
        + [sum(row[i] * value for row, value in zip(rows, wanted, strict=True))]
        for i in range(width)
    ]
    for column in range(width):
        pivot = max(range(column, width), key=lambda line: abs(matrix[line][column]))
        if abs(matrix[pivot][column]) < _NOTHING:
            return None
        matrix[column], matrix[pivot] = matrix[pivot], matrix[column]
        for line in range(width):
            if line != column:
                factor = matrix[line][column] / matrix[column][column]
                matrix[line] = [a - factor * b for a, b in zip(matrix[line], matrix[column], strict=True)]
    return [matrix[line][width] / matrix[line][line] for line in range(width)]
