"""``vllm-headroom plan``: what a vLLM command line will hold, before there is a server."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from advisor.plan import EnginePlan
from advisor.residuals import NO_RESIDUALS, from_json
from advisor.suggest import Suggestion
from exporter.cli.options import refuse_own
from exporter.errors import HeadroomError, UsageError
from exporter.planning import Answer, Asked, answer, plan_of, result_of
from exporter.state import RESIDUALS_FILE, State

_MOST_LINE_BYTES = 1024**2


class _BesideVllms(click.Command):
    """Takes its options before and after MODEL; without a -- before it only, where flags of vLLM follow it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, [*args])
        except click.NoSuchOption:
            if "--" in args:
                raise
        ctx.allow_interspersed_args = False
        return super().parse_args(ctx, args)


@click.command(name="plan", cls=_BesideVllms)
@click.option("--gpu", metavar="NAME", help="A GPU of the catalogue, such as 'RTX 4090' or 'H100 MIG 1g.10gb'.")
@click.option("--gpu-memory-gib", type=float, metavar="GIB", help="Its CUDA-visible total, as PyTorch shows it.")
@click.option("--gpu-count", type=click.IntRange(min=1), metavar="N", help="How many; default: as many as needed.")
@click.option("--vllm-version", metavar="X.Y.Z", help="Release to plan for; default: the newest one studied.")
@click.option("--typical-tokens", type=click.IntRange(min=1), metavar="N", help="Length of a typical request.")
@click.option("--suggest", is_flag=True, help="For each flag: what would pass, and what it costs in tokens.")
@click.option(
    "--batch", type=click.Path(path_type=Path, allow_dash=True), metavar="FILE", help="One JSON object a line."
)
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="State directory of a daemon on this host: what it has learned of such engines shifts the estimate.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.argument("command_line", nargs=-1, type=click.UNPROCESSED)
def command(
    gpu: str | None,
    gpu_memory_gib: float | None,
    gpu_count: int | None,
    vllm_version: str | None,
    typical_tokens: int | None,
    suggest: bool,
    state_dir: Path | None,
    batch: Path | None,
    as_json: bool,
    command_line: tuple[str, ...],
) -> None:
    """Say what a vLLM command line will hold: vllm-headroom plan --gpu "RTX 4090" -- serve MODEL --max-model-len 8192.

    Exit status: 0 it fits, 1 it does not or is too close to call, 2 wrong use.
    """
    if batch is not None:
        if command_line:
            raise UsageError("--batch: the command lines stand in the file, none may follow")
        sys.exit(_batch(batch))
    refuse_own(command, command_line)
    if not command_line:
        raise UsageError('nothing to plan; for example: vllm-headroom plan --gpu "RTX 4090" -- serve MODEL')
    asked = Asked(
        gpu=gpu,
        gpu_memory_gib=gpu_memory_gib,
        gpu_count=gpu_count,
        vllm_version=vllm_version,
        argv=tuple(command_line),
        residuals=State(state_dir, RESIDUALS_FILE).load(from_json, NO_RESIDUALS) if state_dir else NO_RESIDUALS,
    )
    found = _answer(asked)
    suggestions: tuple[Suggestion, ...] = ()
    if suggest:
        from advisor.suggest import suggestions_for

        suggestions = suggestions_for(found.plan, lambda **changes: plan_of(found, **changes))
    if as_json:
        click.echo(json.dumps(result_of(found, suggestions=suggestions, typical_tokens=typical_tokens), indent=2))
    else:
        from exporter.cli.plan_table import show

        show(found, suggestions=suggestions, typical_tokens=typical_tokens)
    sys.exit(_status(found.plan))


def _answer(asked: Asked) -> Answer:
    """Answer; a model's configuration and headers may have to come from the hub first, which a terminal is told."""
    if not sys.stderr.isatty():
        return answer(asked)  # scripts that ask often are spared what draws
    from rich.console import Console

    with Console(stderr=True).status("reading the model"):
        return answer(asked)


def _status(plan: EnginePlan) -> int:
    return 0 if plan.verdict == "fits" else 1


def _batch(file: Path) -> int:
    """Answer every line with a line; a bad line says what is wrong with it and stops nothing."""
    status = 0
    for number, line in enumerate(_lines(file), start=1):
        if not line.strip():
            continue
        result = _batch_line(line, f"line {number}")
        status = max(status, 1 if result.get("verdict") != "fits" else 0)
        click.echo(json.dumps(result))
    return status


def _lines(file: Path) -> Iterator[str]:
    try:
        with click.open_file(str(file), encoding="utf-8", errors="replace") as lines:
            while line := lines.readline(_MOST_LINE_BYTES):
                yield line
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from error


def json_of(line: str, where: str) -> Any:
    """Return what a line of a batch says.

    Raises:
        UsageError: It is no JSON; the message says where.
    """
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not JSON: {error}") from error


def _batch_line(line: str, where: str) -> dict[str, Any]:
    identity: Any = None
    try:
        row = json_of(line, where)
        if not isinstance(row, dict):
            raise UsageError(f"{where}: a JSON object is needed, this is {type(row).__name__}")
        identity = row.get("id")
        return {"id": identity} | result_of(answer(Asked.from_row(row, where)))
    except HeadroomError as error:
        return {"id": identity, "verdict": None, "error": str(error)}
