"""Judging a folder of generated images: detect, name colours, apply the rules; stopped at any time, it goes on."""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sana_judge.geneval.detections_file import detections_json, parse_detections, read_hashed_detections
from sana_judge.geneval.layout import Metadata
from sana_judge.geneval.results import Result, write_results
from sana_judge.geneval.rules import (
    COUNTING_THRESHOLD,
    THRESHOLD,
    Detection,
    asked_colors,
    check_rules,
    evaluate,
    kept_detections,
)
from sana_judge.geneval.samples import Sample, list_samples
from sana_judge.geneval.summary import Table, table
from sana_judge.whole_files import append_json_lines, read_journal, write_json, write_json_lines

if TYPE_CHECKING:
    from PIL import Image

DETECTIONS = "detections.jsonl"
RESULTS = "results.jsonl"
TABLE = "table.json"
UNREADABLE = "unreadable image: "


class Detector(Protocol):
    """What finds the objects of images, each RGB and upright.

    An attribute `revision`, where it has one, names its weights: with other weights, images are looked at again.
    Without one, detectors are told apart by the name of their class or function alone.
    """

    def __call__(self, images: Sequence["Image.Image"], /) -> Sequence[Sequence[Detection]]:
        """Returns the detections of each image."""


class ColorNamer(Protocol):
    """What names the colours of some objects of one image, in order; with a `revision` as `Detector`."""

    def __call__(self, image: "Image.Image", detections: Sequence[Detection], /) -> Sequence[str]:
        """Returns a colour per detection, one of `COLORS`."""


def score_directory(
    directory: str | PathLike[str],
    detector: Detector,
    *,
    colors: ColorNamer | None = None,
    metadata: Sequence[Metadata] | None = None,
    out: str | PathLike[str] | None = None,
    threshold: float = THRESHOLD,
    counting_threshold: float = COUNTING_THRESHOLD,
    max_overlap: float = 1.0,
    batch_size: int = 8,
    progress: bool = True,
) -> Table:
    """Judge all images of a folder in GenEval's layout.

    `out`, the folder itself unless given, gets detections.jsonl as images are done, and at the end results.jsonl (in
    the official format) and table.json. Called again, it looks only at images that are new, changed, or asked
    something else. An image that cannot be read counts as wrong, with a warning.

    Args:
        directory: Folders as `read_directory` reads them.
        detector: Finds the objects.
        colors: Names the colours that prompts ask for; None if the detector does.
        metadata: The official evaluation_metadata.jsonl, as `read_directory` takes it.
        out: Where the three files go.
        threshold: Detections count when their score is above it.
        counting_threshold: The same for the tag "counting".
        max_overlap: Detections that overlap a better one of their class by it or more do not count; 1.0 keeps all.
        batch_size: Images per call of the detector.
        progress: Whether to show a bar.

    Raises:
        FileNotFoundError, ValueError: As `read_directory`; or a prompt asks for a colour that nobody names, a
            threshold is not from 0 to 1, or batch_size is below 1.
    """
    from tqdm import tqdm

    from sana_judge.judge_call import check_batch_size

    check_batch_size(batch_size)
    rules = {"threshold": threshold, "counting_threshold": counting_threshold, "max_overlap": max_overlap}
    check_rules(**rules)
    samples = list_samples(Path(directory), metadata)
    target = Path(out if out is not None else directory)
    detector_and_rules = f"{_revision(detector)} {_revision(colors)} {rules}"
    records = {record.get("filename"): record for record in read_journal(target / DETECTIONS)}
    hashes = {s.name: s.hash() for s in tqdm(samples, desc="reading", delay=1, disable=not progress)}
    keys = {s.name: s.key(hashes[s.name], detector_and_rules) for s in samples}
    pending = [s for s in samples if records.get(s.name, {}).get("key") != keys[s.name]]
    with tqdm(total=len(samples), initial=len(samples) - len(pending), unit="image", disable=not progress) as bar:
        for start in range(0, len(pending), batch_size):
            batch = pending[start : start + batch_size]
            found = _detect(batch, detector, colors, rules)
            done = [{"filename": s.name, "key": keys[s.name], "image": hashes[s.name]} | found[s.name] for s in batch]
            append_json_lines(target / DETECTIONS, done)
            records |= {record["filename"]: record for record in done}
            bar.update(len(batch))
    write_json_lines(target / DETECTIONS, (records[s.name] for s in samples))
    return _judge(samples, records, target, rules, metadata)


def score_detections(
    directory: str | PathLike[str],
    detections: Mapping[str, Sequence[Detection]] | str | PathLike[str],
    *,
    metadata: Sequence[Metadata] | None = None,
    out: str | PathLike[str] | None = None,
    threshold: float = THRESHOLD,
    counting_threshold: float = COUNTING_THRESHOLD,
    max_overlap: float = 1.0,
) -> Table:
    """Judge all images of a folder by detections made before, as `read_detections` gives them; needs no weights.

    `detections` may also be the path of their file; if `score_directory` wrote it, images that have changed since are
    noticed. Arguments, files and errors are those of `score_directory`; it also raises ValueError where a readable
    image has no detections or has changed, or where an object has no colour and the prompt asks for one.
    """
    rules = {"threshold": threshold, "counting_threshold": counting_threshold, "max_overlap": max_overlap}
    check_rules(**rules)
    samples = list_samples(Path(directory), metadata)
    hashes: Mapping[str, str] = {}
    if not isinstance(detections, Mapping):
        detections, hashes = read_hashed_detections(detections)
    records: dict[Any, dict[str, Any]] = {}
    for sample in samples:
        if sample.name in detections:
            if sample.name in hashes and hashes[sample.name] != sample.hash():
                raise ValueError(f"{sample.path} is not the image that the detections are of: detect its objects again")
            found = detections[sample.name]
            sample.check_named(asked_colors(kept_detections(found, sample.metadata, **rules), sample.metadata))
            records[sample.name] = {"detections": detections_json(found)}
        elif isinstance(image := sample.read(), str):
            records[sample.name] = {"error": image}
        else:
            raise ValueError(f"no detections of {sample.name}, which can be read: detect the objects of all images")
    return _judge(samples, records, Path(out if out is not None else directory), rules, metadata)


def _revision(maker: object) -> str:
    """What tells two detectors apart: the revision they state, or else their class's or function's name."""
    named = maker if hasattr(maker, "__qualname__") else type(maker)
    return str(getattr(maker, "revision", None) or f"{named.__module__}.{getattr(named, '__qualname__', '')}")


def _detect(
    batch: Sequence[Sample], detector: Detector, colors: ColorNamer | None, rules: Mapping[str, float]
) -> dict[str, dict[str, Any]]:
    """What is written of each image: all its detections, so that other thresholds can be tried, or why it is unread."""
    read = {sample.name: sample.read() for sample in batch}
    records: dict[str, dict[str, Any]] = {
        name: {"error": image} for name, image in read.items() if isinstance(image, str)
    }
    images = {name: image for name, image in read.items() if not isinstance(image, str)}
    found = detector(list(images.values())) if images else []
    if len(found) != len(images):
        raise ValueError(f"the detector gave {len(found)} lists of detections for {len(images)} images: give one each")
    any_score = {**rules, "threshold": 0.0, "counting_threshold": 0.0}
    for (name, image), detections in zip(images.items(), found, strict=True):
        sample = next(sample for sample in batch if sample.name == name)
        kept = kept_detections(detections, sample.metadata, **(any_score if colors else rules))
        unnamed = [d for d in asked_colors(kept, sample.metadata) if d.color is None]
        names = dict(zip(map(id, unnamed), colors(image, unnamed), strict=True)) if colors and unnamed else {}
        named = [dataclasses.replace(d, color=names.get(id(d), d.color)) for d in detections]
        sample.check_named([] if colors else unnamed)
        records[name] = {"detections": detections_json(named)}
    return records


def _judge(
    samples: Sequence[Sample],
    records: Mapping[Any, Mapping[str, Any]],
    out: Path,
    rules: Mapping[str, float],
    metadata: Sequence[Metadata] | None,
) -> Table:
    results = [_result(sample, records[sample.name], rules) for sample in samples]
    summary = table(result.verdict for result in results)
    unreadable = [result.filename for result in results if result.reason.startswith(UNREADABLE)]
    write_results(out / RESULTS, results)
    missing = _missing(samples, metadata)
    facts = {"judged": len(results), "unreadable": unreadable, "rules": dict(rules)}
    facts |= {"prompts_without_images": len(missing), "tasks_absent": list(summary.absent)}
    write_json(out / TABLE, dataclasses.asdict(summary) | facts)
    if unreadable:
        listed = ", ".join(unreadable[:4]) + (" ..." if len(unreadable) > 4 else "")
        warnings.warn(f"{len(unreadable)} images cannot be read and count as wrong: {listed}", stacklevel=3)
    if missing:
        absent = f", among them all of {', '.join(summary.absent)}" if summary.absent else ""
        warnings.warn(
            f"{len(missing)} of {len(metadata or ())} prompts have no images and do not count{absent}", stacklevel=3
        )
    return summary


def _missing(samples: Sequence[Sample], metadata: Sequence[Metadata] | None) -> list[Metadata]:
    """The official prompts that nobody drew; a prompt that is there twice is one."""
    drawn = {sample.metadata["prompt"] for sample in samples}
    return [record for record in metadata or () if record["prompt"] not in drawn]


def _result(sample: Sample, record: Mapping[str, Any], rules: Mapping[str, float]) -> Result:
    detections = parse_detections(record.get("detections", ()))
    verdict = evaluate(detections, sample.metadata, **rules)
    kept = kept_detections(detections, sample.metadata, **rules)
    error = f"{UNREADABLE}{record['error']}" if "error" in record else ""
    return Result(
        filename=str(sample.path),
        tag=verdict.tag,
        prompt=verdict.prompt,
        correct=verdict.correct and not error,
        reason=error or verdict.reason,
        metadata=sample.metadata,
        details={name: [[*d.box, d.score] for d in of_class] for name, of_class in kept.items()},
    )
