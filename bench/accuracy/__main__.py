"""``python -m bench.accuracy``: score every deployment and write docs/accuracy.md."""

import argparse
import json
import sys
from pathlib import Path

from bench.accuracy.articles import examples
from bench.accuracy.compare import askable, formula_peers, ourselves, package_peers
from bench.accuracy.predict import parameter_count, predict
from bench.accuracy.report import machine_rows, report
from bench.accuracy.rows import configurations, deployments
from bench.accuracy.score import population, score, summary, targets

PAGE = Path(__file__).parents[2] / "docs" / "accuracy.md"


def main() -> int:
    """Write the page and print the targets."""
    arguments = argparse.ArgumentParser(prog="python -m bench.accuracy", description=__doc__)
    arguments.add_argument(
        "--packages-python",
        type=Path,
        default=Path(sys.executable),
        help="interpreter that has the packages of bench/accuracy/requirements.txt",
    )
    arguments.add_argument("--output", type=Path, default=PAGE)
    arguments.add_argument("--rows", type=Path, help="also write every row's figures there, as JSON lines")
    given = arguments.parse_args()

    configs = configurations()
    rows = score(deployments(), configs, predict)
    counted = {model: parameter_count(config) for model, config in configs.items()}
    asked = askable(rows, configs, {model: count for model, count in counted.items() if count is not None})
    peers = [ourselves(asked), *formula_peers(asked)]
    packages, versions = package_peers(asked, given.packages_python)
    said = (
        "Packages: " + ", ".join(f"{name} {version}" for name, version in sorted(versions.items())) + "."
        if versions
        else "No package of bench/accuracy/requirements.txt was installed, so none is in the table."
    )
    given.output.parent.mkdir(exist_ok=True)
    text = report(rows, peers=[*peers, *packages], packages_said=said, examples=examples(configs))
    given.output.write_text(text, encoding="utf-8")
    if given.rows:
        given.rows.write_text("".join(f"{json.dumps(row)}\n" for row in machine_rows(rows)), encoding="utf-8")
    for target in targets(summary(population(rows, utilization_stated=True))):
        value = "-" if target.value is None else f"{100 * target.value:.2f}%"
        met = "no rows" if target.met is None else "met" if target.met else "not met"
        print(f"{target.name:<45} {target.wanted:>8} {value:>10}  {met}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
