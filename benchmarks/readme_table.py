"""The README's table of measurements, written from benchmarks/results/ and nowhere else: `--check` only compares."""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.machine import RESULTS

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- measured: python -m benchmarks.readme_table -->\n", "<!-- end of measured -->\n"
NAMED_BY = ("operation", "direction", "dtype", "pixels", "side", "batch")  # what tells the rows of a result apart
OTHERS = ("diffusers", "diffusers_compiled", "released", "eager", "compiled")


def main() -> None:
    """Writes the table into the README, or tells whether it is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail where the README has another table")
    args = parser.parse_args()
    before = README.read_text(encoding="utf-8")
    after = with_table(before, render(newest(RESULTS)))
    if args.check and before != after:
        sys.exit("README.md has another table: run python -m benchmarks.readme_table")
    README.write_text(after, encoding="utf-8")


def newest(folder: Path) -> list[dict[str, Any]]:
    """Returns the latest result of each benchmark and device that compares times."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for path in sorted(folder.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        if "date" in result and isinstance(result.get("results"), list):
            key = result["benchmark"], result["device"], result.get("dtype")
            if key not in found or found[key]["date"] <= result["date"]:
                found[key] = result
    return sorted(found.values(), key=lambda result: (result["device"], result["benchmark"]))


def render(results: list[dict[str, Any]]) -> str:
    """Returns the table: a line for each comparison of two times."""
    lines = ["| measured | ours | reference | times faster | device |", "|---|---|---|---|---|"]
    lines += [line for result in results for line in _lines(result)]
    return "\n".join(lines) + "\n"


def with_table(readme: str, table: str) -> str:
    """Returns the README with the table between its two marks.

    Raises:
        ValueError: The marks are not there, once each.
    """
    if readme.count(BEGIN) != 1 or readme.count(END) != 1:
        raise ValueError(f"README.md must have the lines {BEGIN!r} and {END!r} once each")
    return re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: f"{BEGIN}{table}{END}", readme, flags=re.S)


def _lines(result: dict[str, Any]) -> Iterator[str]:
    for row in ({"dtype": result.get("dtype"), **row} for row in result["results"]):
        ours = min(
            (row[f"seconds_{name}"] for name in ("ours", "ours_as_a_graph", "fused") if f"seconds_{name}" in row),
            default=None,
        )
        for other in OTHERS if ours is not None else ():
            ratio = row.get(f"speedup_over_{other}", row.get("speedup") if other == "released" else None)
            if f"seconds_{other}" in row and ratio is not None:
                named = [
                    f"{name} {row[name]}" if isinstance(row[name], int) else row[name]
                    for name in NAMED_BY
                    if row.get(name) is not None
                ]
                what = ", ".join([result["benchmark"].partition(" beside")[0], *named])
                cells = what, _time(ours), f"{other.replace('_', ' ')} {_time(row[f'seconds_{other}'])}", f"{ratio:.2f}"
                yield f"| {' | '.join(cells)} | {_device(result)} |"


def _time(seconds: float) -> str:
    for unit, size in (("s", 1), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.2g} s"


def _device(result: dict[str, Any]) -> str:
    threads = result.get("threads")
    return result["device"] + (f", {threads} thread{'s' * (threads > 1)}" if threads else "")


if __name__ == "__main__":
    main()
