"""A request trace from a file: CSV or JSON lines with arrival time, prompt tokens and output tokens.

Column names differ from one published trace to the next; those known are listed here. Azure's LLM inference traces
(``TIMESTAMP,ContextTokens,GeneratedTokens``), BurstGPT (``Timestamp,Request tokens,Response tokens``) and Mooncake's
JSON lines (``timestamp`` in milliseconds, ``input_length``, ``output_length``) are read as they are.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from advisor.whatif import TracedRequest
from exporter.errors import UsageError

MOST_BYTES = 512 * 1024**2
MOST_REQUESTS = 1_000_000

_TIME = ("timestamp", "arrivedat", "arrivaltime", "arrival", "arrivalseconds", "seconds", "time")
_PROMPT = ("contexttokens", "prompttokens", "requesttokens", "inputtokens", "inputlength", "numprefilltokens", "prompt")
_OUTPUT = (
    *("generatedtokens", "outputtokens", "responsetokens", "completiontokens"),
    *("outputlength", "numdecodetokens", "output"),
)
_FRACTION = re.compile(r"(\.\d{6})\d+")
"""Azure's clocks tick in units of 100 ns; six digits are what Python reads."""
_MOST_PROBLEMS = 10
_MOST_SHOWN = 40


def read_trace(
    path: Path, *, limit: int | None = None, most_requests: int = MOST_REQUESTS
) -> tuple[TracedRequest, ...]:
    """Return the requests of a trace in the file's order; the first ``limit`` of them.

    Raises:
        UsageError: The file cannot be read, its columns are not known, a row makes no sense or there are too many.
    """
    try:
        if path.is_file() and path.stat().st_size > MOST_BYTES:
            raise UsageError(f"{path}: {path.stat().st_size:,} bytes are no trace, at most {MOST_BYTES:,} are read")
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = _json_rows(file, path) if _is_json(path) else _csv_rows(file)
            return _requests(rows, path, limit, most_requests)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not text in UTF-8") from error
    except csv.Error as error:
        raise UsageError(f"{path}: not CSV: {error}") from error


def _is_json(path: Path) -> bool:
    with path.open(encoding="utf-8-sig") as file:
        return file.read(64).lstrip().startswith("{")


def _csv_rows(lines: Iterable[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.DictReader(lines)
    for row in reader:
        yield reader.line_num, {str(name): value for name, value in row.items() if name is not None}


def _json_rows(lines: Iterable[str], path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path}, line {number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise UsageError(f"{path}, line {number}: an object is needed, this is {type(row).__name__}")
        yield number, row


def _requests(
    rows: Iterable[tuple[int, Mapping[str, Any]]], path: Path, limit: int | None, most_requests: int
) -> tuple[TracedRequest, ...]:
    found: list[TracedRequest] = []
    problems: list[str] = []
    columns: tuple[str, str, str] | None = None
    for number, row in rows:
        columns = columns or _columns(row, path)
        if len(found) == limit:
            break
        if len(found) == most_requests:
            raise UsageError(f"{path}: more than {most_requests:,} requests: take the first N with --requests N")
        try:
            found.append(_request(row, columns))
        except ValueError as error:
            problems.append(f"{path}, line {number}: {error}")
            if len(problems) == _MOST_PROBLEMS:
                break
    if problems:
        raise UsageError("\n".join(problems))
    if not found:
        raise UsageError(f"{path}: no requests in it")
    return tuple(found)


def _columns(row: Mapping[str, Any], path: Path) -> tuple[str, str, str]:
    plain = {re.sub(r"[^a-z]", "", name.lower()): name for name in row}
    chosen = []
    for what, known in (("the arrival time", _TIME), ("the prompt tokens", _PROMPT), ("the output tokens", _OUTPUT)):
        name = next((plain[each] for each in known if each in plain), None)
        if name is None:
            names = f"known names are {', '.join(known)}; there are {', '.join(row)}"
            raise UsageError(f"{path}: no column for {what}: {names}")
        chosen.append(name)
    return chosen[0], chosen[1], chosen[2]


def _request(row: Mapping[str, Any], columns: tuple[str, str, str]) -> TracedRequest:
    time_name, prompt_name, output_name = columns
    seconds = _seconds(row.get(time_name), time_name)
    if (prompt_name, output_name) == ("input_length", "output_length"):
        seconds /= 1000.0
    return TracedRequest(
        seconds=seconds,
        prompt_tokens=_tokens(row.get(prompt_name), prompt_name),
        output_tokens=_tokens(row.get(output_name), output_name),
    )


def _tokens(value: Any, name: str) -> int:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name} is {_short(value)}, a number of tokens is needed") from None
    if not number.is_integer():
        raise ValueError(f"{name} is {_short(value)}, a whole number of tokens is needed")
    # Some traces book a request that got nothing, or failed, with 0: it still was one.
    return max(1, int(number)) if number >= 0 else int(number)


def _short(value: Any) -> str:
    text = str(value)
    return repr(text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + "...")


def _seconds(value: Any, name: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        pass
    try:
        moment = datetime.fromisoformat(_FRACTION.sub(r"\1", str(value).strip()))
    except ValueError:
        raise ValueError(f"{name} is {_short(value)}, seconds or a date with a time are needed") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
