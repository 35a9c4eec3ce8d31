"""The section of a page in docs that a benchmark writes, between its marks; the rest is written by hand."""

from pathlib import Path


def write_section(file: Path, section: str, *, target: str) -> None:
    """Replace the section that ``make target`` writes.

    Raises:
        ValueError: The page has no marks of this target.
    """
    file.write_text(replaced(file.read_text(encoding="utf-8"), section, target=target), encoding="utf-8")


def replaced(page: str, section: str, *, target: str) -> str:
    """Return the page with the section between the marks of ``make target``.

    Raises:
        ValueError: The page has no marks of this target.
    """
    begin, end = (f"<!-- written by make {target}: {each} -->" for each in ("begin", "end"))
    before, found_begin, rest = page.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise ValueError(f"no {begin} and {end} in the page")
    return f"{before}{begin}\n\n{section}\n{end}{after}"
