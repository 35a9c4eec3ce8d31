"""The sections of docs/endurance.md that measurements write, each between its own pair of markers."""

from pathlib import Path

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "endurance.md"


def write_section(name, text, document=DOCUMENT):
    """Replace a section; what stands around it is written by hand."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, _, rest = document.read_text(encoding="utf-8").partition(begin)
    _, found, after = rest.partition(end)
    assert found, f"{document} has no section {name}"
    document.write_text(f"{before}{begin}\n{text.strip()}\n{end}{after}", encoding="utf-8")
