"""detections.jsonl: what a detector saw in every image, so that judging can stop, go on, and be done again."""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from sana_judge.geneval.rules import Detection
from sana_judge.whole_files import parse_json_lines, write_json_lines

_LINE = '{"filename": ..., "detections": [{"class": ..., "score": ..., "box": [x0, y0, x1, y1]}, ...]}'


def read_detections(path: str | PathLike[str]) -> dict[str, list[Detection]]:
    """Read detections by the image's name in GenEval's layout, "00000/samples/0000.png".

    A line is {"filename": ..., "detections": [{"class": "cat", "score": 0.9, "box": [x0, y0, x1, y1], "color": "red"},
    ...]}, the color optional; further fields are passed over. Later lines replace earlier ones.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line is something else: names it.
    """
    return read_hashed_detections(path)[0]


def read_hashed_detections(path: str | PathLike[str]) -> tuple[dict[str, list[Detection]], dict[str, str]]:
    """Read the same, and by the same names the hashes of the images, as far as the file has them."""
    lines = parse_json_lines(Path(path), _parse_line, remedy=f"a line must be {_LINE}")
    seen = [line for line in lines if line]
    found = {filename: detections for filename, detections, _ in seen}
    return found, {filename: image_hash for filename, _, image_hash in seen if image_hash}


def _parse_line(record: dict[str, Any]) -> tuple[str, list[Detection], str | None] | None:
    return (
        None if "error" in record else (record["filename"], parse_detections(record["detections"]), record.get("image"))
    )


def write_detections(path: str | PathLike[str], detections: Mapping[str, Sequence[Detection]]) -> None:
    """Write a file that `read_detections` reads, whole or not at all; masks are left out."""
    write_json_lines(
        Path(path), ({"filename": name, "detections": detections_json(found)} for name, found in detections.items())
    )


def parse_detections(entries: Sequence[Mapping[str, Any]]) -> list[Detection]:
    """Read detections from JSON. Raises KeyError, TypeError or ValueError where they are something else."""
    detections = []
    for entry in entries:
        x0, y0, x1, y1 = map(float, entry["box"])
        name, score, color = entry["class"], float(entry["score"]), entry.get("color")
        if not isinstance(name, str) or not isinstance(color, str | None):
            raise TypeError(f"class is {name!r}, color {color!r}")
        detections.append(Detection(name=name, score=score, box=(x0, y0, x1, y1), color=color))
    return detections


def detections_json(found: Sequence[Detection]) -> list[dict[str, Any]]:
    """The JSON of detections: class, score, box, and the color where there is one."""
    return [
        {"class": seen.name, "score": seen.score, "box": list(seen.box)} | ({"color": seen.color} if seen.color else {})
        for seen in found
    ]
