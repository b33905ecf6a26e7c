"""Examples out of what is there: an evaluator's results, and the images of best-of-N runs that it judged."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from sana_judge.training.hard_negatives import geneval_prompt, hard_negatives
from sana_judge.whole_files import write_json_lines

_RUN = "run.json"


def results_to_examples(
    results: str | PathLike[str],
    data: str | PathLike[str],
    *,
    say: Callable[[Mapping[str, Any]], str] | None = geneval_prompt,
) -> int:
    """Write examples of every image in an evaluator's results; returns how many.

    Args:
        results: GenEval's results.jsonl: lines with filename, tag, prompt, correct, metadata. File names are relative
            to the folder of this file, or to where the evaluator ran.
        data: the file to write; the images must lie below its folder.
        say: turns metadata into a prompt. Correct images whose line has metadata then also get hard negatives;
            None writes none.

    Raises:
        FileNotFoundError: an image is not there.
        ValueError: a line is not a result, or an image lies outside the folder of `data`.
    """
    labelled = [_labelled(fields, path, say) for path, fields in _read_results(Path(results))]
    return _write(Path(data), labelled)


def run_to_examples(
    run_dir: str | PathLike[str],
    results: str | PathLike[str],
    data: str | PathLike[str],
    *,
    say: Callable[[Mapping[str, Any]], str] | None = geneval_prompt,
) -> int:
    """Write examples of the images that a best-of-N run kept and an evaluator judged; returns how many.

    The run directory is that of one prompt, with run.json, or holds those of many. An image takes the prompt of its
    run, and the verdict and the task of its line in `results`; images that were not judged are left out. Raises what
    `results_to_examples` raises, and ValueError where no image of the run was judged.
    """
    verdicts = dict(_read_results(Path(results)))
    labelled = [
        _labelled({**verdicts[image], "prompt": prompt}, image, say)
        for image, prompt in run_images(run_dir)
        if image in verdicts
    ]
    if not labelled:
        raise ValueError(f"{results} has no image of {run_dir}: evaluate the images of this run")
    return _write(Path(data), labelled)


def run_images(run_dir: str | PathLike[str]) -> Iterator[tuple[Path, str]]:
    """The images below a best-of-N run directory and their prompts; those that lost are no longer there.

    Raises:
        FileNotFoundError: there is no run.json in the folder or in those below it.
        ValueError: a run.json has no prompt.
    """
    root = Path(run_dir).resolve()
    runs = [path.parent for path in sorted(root.rglob(_RUN)) if _prompt(path) is not None]
    if not runs:
        raise FileNotFoundError(f"{run_dir} has no {_RUN} with a prompt: give the run directory of a best-of-N run")
    for run in runs:
        prompt = _prompt(run / _RUN)
        assert prompt is not None
        for image in sorted([*run.glob("best-*.png"), *run.glob("units/[0-9]*/seed-*.png")]):
            yield image, prompt


def _prompt(path: Path) -> str | None:
    """The prompt of one run; None for the run.json that describes many."""
    try:
        prompt = json.loads(path.read_text(encoding="utf-8"))["request"]["prompt"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not what a best-of-N run writes: give a run directory") from error
    return prompt if isinstance(prompt, str) else None


def _read_results(results: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for number, line in enumerate(results.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
            name, _ = str(fields["filename"]), bool(fields["correct"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"line {number} of {results} is not a result: it needs filename and correct") from error
        beside = results.parent / name
        path = beside if beside.is_file() else Path(name)
        if not path.is_file():
            raise FileNotFoundError(f"line {number} of {results} names {name}, which is not there: restore it")
        yield path.resolve(), fields


def _labelled(
    fields: Mapping[str, Any], image: Path, say: Callable[[Mapping[str, Any]], str] | None
) -> tuple[Path, dict[str, Any]]:
    metadata = fields.get("metadata")
    metadata = json.loads(metadata) if isinstance(metadata, str) else metadata
    prompt = fields.get("prompt") or (metadata or {}).get("prompt")
    if not isinstance(prompt, str):
        raise ValueError(f"the result of {image} has no prompt: evaluate with one, or give the run directory")
    line: dict[str, Any] = {"prompt": prompt, "label": int(bool(fields["correct"])), "task": fields.get("tag", "")}
    if say and line["label"] and metadata and "include" in metadata:
        line["negatives"] = [negative["prompt"] for negative in hard_negatives(metadata, say=say)]
    return image, line


def _write(data: Path, labelled: Iterable[tuple[Path, dict[str, Any]]]) -> int:
    root = data.parent.resolve()
    lines = []
    for image, fields in labelled:
        if not image.is_relative_to(root):
            raise ValueError(f"{image} is not below {root}: write {data.name} into a folder that holds the images")
        lines.append({"image": os.path.relpath(image, root), **fields})
    write_json_lines(data, lines)
    return len(lines)
