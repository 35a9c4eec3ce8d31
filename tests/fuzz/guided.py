"""Coverage-guided fuzzing of every parser: ``python -m tests.fuzz.guided --seconds 60``; ``make fuzz`` is the same.

Needs atheris (``pip install atheris``, Python 3.11 to 3.13). What falls over a parser is written beside the corpus as
found-NAME-..., to be cut down, mended and kept there; the section "Fuzzing" of docs/endurance.md is written anew.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

from tests.endurance.report import write_section

import atheris  # isort: skip

# What is imported under this is guided by coverage; only the processes that fuzz need it.
with atheris.instrument_imports(include=["advisor", "exporter"]) if "--parser" in sys.argv else nullcontext():
    from tests.fuzz.parsers import CORPUS, PARSERS

_MOST_BYTES = 16_384
_SLOWEST_SECONDS = 20
_LINE = re.compile(r"^#(\d+)\s+(?:DONE|\w+)\s+cov: (\d+)", re.MULTILINE)


def fuzz(name, arguments):
    """Never returns: libFuzzer ends the process."""
    atheris.Setup([f"fuzz {name}", *arguments], PARSERS[name].take)
    atheris.Fuzz()


def run(name, seconds, found):
    """Fuzz one parser in a process of its own; return (inputs tried, edges covered, what it fell over on)."""
    before = set(found.iterdir())
    with tempfile.TemporaryDirectory() as grown:
        command = [
            *(sys.executable, "-m", "tests.fuzz.guided", "--parser", name, "--"),
            *(f"-max_total_time={seconds}", f"-max_len={_MOST_BYTES}", f"-timeout={_SLOWEST_SECONDS}"),
            *("-rss_limit_mb=1024", "-seed=1", f"-artifact_prefix={found}/found-{name}-", grown, str(CORPUS / name)),
        ]
        ended = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    lines = _LINE.findall(ended.stderr)
    if not lines:
        sys.exit(ended.stderr)
    if ended.returncode != 0:
        print(ended.stderr[-6_000:], flush=True)
    return int(lines[-1][0]), int(lines[-1][1]), sorted(set(found.iterdir()) - before)


def text(results, seconds):
    """Return the section of the report."""
    rows = "\n".join(
        f"| {name.replace('_', ' ')} | {len(PARSERS[name].corpus())} | {tried:,} | {edges:,} | {len(found)} |"
        for name, (tried, edges, found) in results.items()
    )
    return f"""{seconds} s of guided fuzzing (atheris, libFuzzer) of each parser of what others write, from its corpus
in tests/fuzz/corpus. A parser may refuse by its declared error; anything else, an impossible figure, more than
{_SLOWEST_SECONDS} s or 1 GiB counts as falling over.

| parser | corpus | inputs tried | edges covered | fell over |
|---|---|---|---|---|
{rows}"""


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=int, default=60, help="for each parser")
    options.add_argument("--parser", choices=sorted(PARSERS), help="this one alone, with libFuzzer's flags after --")
    options.add_argument("flags", nargs="*")
    given = options.parse_args()
    if given.parser:
        fuzz(given.parser, given.flags)
    found = Path(__file__).parent
    results = {}
    for name in PARSERS:
        results[name] = run(name, given.seconds, found)
        print(name, *results[name], flush=True)
    write_section("fuzz", text(results, given.seconds))
    sys.exit(1 if any(files for _, _, files in results.values()) else 0)


if __name__ == "__main__":
    main()
