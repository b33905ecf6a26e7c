"""The tables of measurements in READMEs, written from benchmarks/results/ and nowhere else: `--check` only compares."""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.machine import RESULTS
from benchmarks.timing import OTHERS, OURS

EVERYTHING, HEADLINES = (Path(__file__).parents[depth] / "README.md" for depth in (0, 1))
HEADLINE = re.compile(r"whole picture|(guided step|forward) of (0\.6b|1\.5-)|DC-AE beside|judging")
BEGIN, END = "<!-- measured: python -m benchmarks.readme_table -->\n", "<!-- end of measured -->\n"
NAMED_BY = (  # what tells the measurements of a benchmark apart
    "operation",
    "tensors",
    "direction",
    "dtype",
    "pixels",
    "side",
    "words",
    "steps",
    "batch",
    "blocks",
    "tokens",
)


def main() -> None:
    """Writes the tables, or tells whether they are there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail where a README has another table")
    args = parser.parse_args()
    for path in (EVERYTHING, HEADLINES):
        before = path.read_text(encoding="utf-8")
        after = with_table(before, table_of(path))
        if args.check and before != after:
            sys.exit(f"{path} has another table: run python -m benchmarks.readme_table")
        path.write_text(after, encoding="utf-8")


def table_of(readme: Path) -> str:
    """Returns the table that belongs there: everything that was measured, or what a reader asks first."""
    rows = newest(RESULTS)
    return render(rows if readme == EVERYTHING else [row for row in rows if HEADLINE.match(row["benchmark"])])


def newest(folder: Path) -> list[dict[str, Any]]:
    """Returns the latest measurement of each thing that was measured on each device, as a row of a result tells it."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for path in sorted(folder.glob("*.json"), key=lambda path: path.stem):
        result = json.loads(path.read_text(encoding="utf-8"))
        if "date" in result and isinstance(result.get("results"), list):
            shared = {name: result.get(name) for name in ("benchmark", "device", "threads", "date", *NAMED_BY)}
            for row in result["results"]:
                row = shared | row
                key = tuple(row[name] for name in ("benchmark", "device", "threads", *NAMED_BY))
                if key not in found or found[key]["date"] <= row["date"]:
                    found[key] = row
    return sorted(found.values(), key=lambda row: (row["device"], row["benchmark"]))


def render(rows: list[dict[str, Any]]) -> str:
    """Returns the table: a line for each comparison of two times, or for a time alone where it has no reference."""
    lines = ["| measured | ours | reference | times faster | times the floor | device |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {' | '.join((_name(row), *cells, _device(row)))} |"
        for row in rows
        for cells in (_optimizers(row) if "optimizers" in row else _times(row))
    ]
    return "\n".join(lines) + "\n"


def with_table(readme: str, table: str) -> str:
    """Returns the README with the table between its two marks.

    Raises:
        ValueError: The marks are not there, once each.
    """
    if readme.count(BEGIN) != 1 or readme.count(END) != 1:
        raise ValueError(f"a README with a table must have the lines {BEGIN!r} and {END!r} once each")
    return re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: f"{BEGIN}{table}{END}", readme, flags=re.S)


def _name(row: dict[str, Any]) -> str:
    named = [f"{name} {row[name]}" if isinstance(row[name], int) else row[name] for name in NAMED_BY if row[name]]
    return ", ".join([row["benchmark"].partition(" beside")[0], *named])


def _times(row: dict[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Yields ours, the reference, times faster, and times the floor."""
    seconds = [row[f"seconds_{name}"] for name in OURS if f"seconds_{name}" in row]
    if seconds:
        ours = _time(min(seconds)) + (f", {row['ns_a_token']:.3g} ns a token" if "ns_a_token" in row else "")
        others = [name for name in OTHERS if f"seconds_{name}" in row]
        for name in others:
            ratio = row["speedup" if name == "released" else f"speedup_over_{name}"]
            yield ours, f"{name.replace('_', ' ')} {_time(row[f'seconds_{name}'])}", f"{ratio:.2f}", _floor(row)
        if not others:
            yield ours, "-", "-", _floor(row)


def _optimizers(row: dict[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Yields the same of the fastest CAME8bit, for all tensors of a block."""
    if row["tensors"] == "whole blocks":
        found = {each["optimizer"]: each for each in row["optimizers"]}
        ours = min((found[name] for name in found if name.startswith("CAME8bit")), key=_nanoseconds)
        for name in (key.removeprefix("time_over ") for key in ours if key.startswith("time_over ")):
            reference, ratio = f"{name} {_nanoseconds(found[name]):.3g} ns", 1 / ours[f"time_over {name}"]
            mine = f"{ours['optimizer']} {_nanoseconds(ours):.3g} ns a parameter"
            yield mine, reference, f"{ratio:.2f}", _floor(ours)


def _nanoseconds(optimizer: dict[str, Any]) -> float:
    return float(optimizer["nanoseconds_per_parameter"])


def _floor(row: dict[str, Any]) -> str:
    return f"{row['over_floor']:.2f}" if "over_floor" in row else "-"


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
