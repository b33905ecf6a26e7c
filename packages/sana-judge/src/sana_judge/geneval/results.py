"""GenEval's results.jsonl: a line for every image with the fields and types of the official evaluator."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from sana_judge.geneval.layout import Metadata
from sana_judge.geneval.rules import Verdict
from sana_judge.whole_files import parse_json_lines, write_json_lines


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One judged image.

    filename: as the evaluator was given it; details: [x0, y0, x1, y1, score] of every detection that counted, by
    class, best first. In the file, metadata and details are strings of JSON, as the official evaluator writes them.
    """

    filename: str
    tag: str
    prompt: str
    correct: bool
    reason: str
    metadata: Metadata
    details: dict[str, list[list[float]]]

    @property
    def verdict(self) -> Verdict:
        """What `geneval.table` sums up."""
        return Verdict(tag=self.tag, prompt=self.prompt, correct=self.correct, reason=self.reason)


def read_results(path: str | PathLike[str]) -> list[Result]:
    """Read a results.jsonl, ours or the official evaluator's.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line is not a result: names it.
    """
    return parse_json_lines(Path(path), _parse, remedy="it is not a result of GenEval: evaluate again")


def write_results(path: str | PathLike[str], results: Iterable[Result]) -> None:
    """Write a results.jsonl that GenEval's summary_scores.py reads, whole or not at all."""
    write_json_lines(Path(path), map(_record, results))


def _parse(record: dict[str, Any]) -> Result:
    if not isinstance(record["correct"], bool):
        raise TypeError(f"correct is {record['correct']!r}")
    metadata, details = json.loads(record["metadata"]), json.loads(record["details"])
    texts = {name: str(record[name]) for name in ("filename", "tag", "prompt", "reason")}
    return Result(**texts, correct=record["correct"], metadata=metadata, details=details)


def _record(result: Result) -> dict[str, Any]:
    return {
        "filename": result.filename,
        "tag": result.tag,
        "prompt": result.prompt,
        "correct": result.correct,
        "reason": result.reason,
        "metadata": json.dumps(dict(result.metadata)),
        "details": json.dumps(result.details),
    }
