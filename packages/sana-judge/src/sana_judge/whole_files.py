"""Files that are there whole or not at all, and journals that lose at most the line that was being written."""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

Parsed = TypeVar("Parsed")


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path` and put it in its place once it is on the disk, in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, fields: Mapping[str, Any]) -> None:
    """Write a JSON object, whole or not at all."""
    text = json.dumps(fields, indent=2, ensure_ascii=False) + "\n"
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line, whole or not at all."""
    content = b"".join(_line(record) for record in records)
    replace_file(path, lambda temporary: temporary.write_bytes(content))


def append_json_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Add lines to a journal; they are on the disk when this returns. A line that a kill cut in half is ended first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(b"".join(_line(record) for record in records))
        file.flush()
        os.fsync(file.fileno())


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Read one JSON object a line; empty lines are none.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line is something else: names it.
    """
    records: list[dict[str, Any]] = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if line.strip():
            record = _object(line)
            if record is None:
                raise ValueError(f"line {number} of {path} is not a JSON object: write the file again")
            records.append(record)
    return records


def parse_json_lines(path: Path, parse: Callable[[dict[str, Any]], Parsed], *, remedy: str) -> list[Parsed]:
    """Read what `parse` makes of every line; `remedy` tells what the lines should be, or where to get them.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line is something else: names it.
    """
    parsed = []
    for number, record in enumerate(read_json_lines(path), 1):
        try:
            parsed.append(parse(record))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"record {number} of {path} cannot be read ({error!r}): {remedy}") from error
    return parsed


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Read the whole lines of a journal, none if it does not exist; what kills cut in half is passed over."""
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    return [record for record in map(_object, lines) if record is not None]


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:  # JSON's and UTF-8's
        return None
    return record if isinstance(record, dict) else None
