"""Judging a folder of generated images: detect, name colours, apply the rules; stopped at any time, it goes on."""

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sana_judge.geneval.detections_file import detections_json, parse_detections
from sana_judge.geneval.layout import Metadata, read_directory
from sana_judge.geneval.results import Result, write_results
from sana_judge.geneval.rules import (
    COUNTING_THRESHOLD,
    THRESHOLD,
    Detection,
    asked_colors,
    evaluate,
    kept_detections,
)
from sana_judge.geneval.summary import Table, table
from sana_judge.geneval.whole_files import append_json_lines, read_journal, write_json_lines, write_whole

if TYPE_CHECKING:
    from PIL import Image

DETECTIONS = "detections.jsonl"
RESULTS = "results.jsonl"
TABLE = "table.json"
UNREADABLE = "unreadable image: "


class Detector(Protocol):
    """What finds the objects of images, each RGB and upright.

    Its attribute `revision` tells what it found from what other weights did; without one, only its name does.
    """

    def __call__(self, images: Sequence["Image.Image"], /) -> Sequence[Sequence[Detection]]:
        """Returns the detections of each image."""


class ColorNamer(Protocol):
    """What names the colours of some objects of one image, in order; with a `revision` as `Detector`."""

    def __call__(self, image: "Image.Image", detections: Sequence[Detection], /) -> Sequence[str]:
        """Returns a colour per detection, one of `COLORS`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sample:
    """One image: its file, its name in the layout ("00000/samples/0000.png"), and what it must show."""

    path: Path
    name: str
    metadata: Metadata

    def key(self, maker: str) -> str:
        """What detections are of: the bytes of the image, what is asked of it, and who looked at it."""
        asked = json.dumps(dict(self.metadata), sort_keys=True)
        digest = hashlib.sha256(f"{maker}\n{asked}\n".encode())
        digest.update(self.path.read_bytes())
        return digest.hexdigest()


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
    something else. An image that cannot be read is wrong, and warned about.

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
        FileNotFoundError, ValueError: As `read_directory`; or a prompt asks for a colour that nobody names.
    """
    samples = _samples(Path(directory), metadata)
    target = Path(out if out is not None else directory)
    rules = {"threshold": threshold, "counting_threshold": counting_threshold, "max_overlap": max_overlap}
    maker = f"{_revision(detector)} {_revision(colors)} {rules}"
    records = {record.get("filename"): record for record in read_journal(target / DETECTIONS)}

    from tqdm import tqdm

    keys = {s.name: s.key(maker) for s in tqdm(samples, desc="reading", delay=1, disable=not progress)}
    pending = [s for s in samples if records.get(s.name, {}).get("key") != keys[s.name]]
    with tqdm(total=len(samples), initial=len(samples) - len(pending), unit="image", disable=not progress) as bar:
        for start in range(0, len(pending), batch_size):
            batch = pending[start : start + batch_size]
            found = _detect(batch, detector, colors, rules)
            done = [{"filename": s.name, "key": keys[s.name]} | found[s.name] for s in batch]
            append_json_lines(target / DETECTIONS, done)
            records |= {record["filename"]: record for record in done}
            bar.update(len(batch))
    write_json_lines(target / DETECTIONS, (records[s.name] for s in samples))
    return _judge(samples, records, target, rules)


def score_detections(
    directory: str | PathLike[str],
    detections: Mapping[str, Sequence[Detection]],
    *,
    metadata: Sequence[Metadata] | None = None,
    out: str | PathLike[str] | None = None,
    threshold: float = THRESHOLD,
    counting_threshold: float = COUNTING_THRESHOLD,
    max_overlap: float = 1.0,
) -> Table:
    """Judge all images of a folder by detections made before, such as `read_detections` reads; needs no weights.

    Arguments, files and errors are those of `score_directory`; raises ValueError, too, where a readable image has no
    detections or an object that a prompt asks the colour of has none.
    """
    samples = _samples(Path(directory), metadata)
    rules = {"threshold": threshold, "counting_threshold": counting_threshold, "max_overlap": max_overlap}
    records: dict[Any, dict[str, Any]] = {}
    for sample in samples:
        if sample.name in detections:
            found = detections[sample.name]
            _check_named(sample, asked_colors(kept_detections(found, sample.metadata, **rules), sample.metadata))
            records[sample.name] = {"detections": detections_json(found)}
        elif isinstance(image := _read(sample), str):
            records[sample.name] = {"error": image}
        else:
            raise ValueError(f"no detections of {sample.name}, which can be read: detect the objects of all images")
    return _judge(samples, records, Path(out if out is not None else directory), rules)


def _samples(root: Path, metadata: Sequence[Metadata] | None) -> list[_Sample]:
    samples = [
        _Sample(path=path, name=path.relative_to(root).as_posix(), metadata=folder.metadata)
        for folder in read_directory(root, metadata)
        for path in folder.images
    ]
    if not samples:
        raise FileNotFoundError(f"{root} holds no images: they must be in 00000/samples/, with names such as 0000.png")
    return samples


def _revision(maker: object) -> str:
    """What tells two detectors apart: the revision they state, or else their class's or function's name."""
    named = maker if hasattr(maker, "__qualname__") else type(maker)
    return str(getattr(maker, "revision", None) or f"{named.__module__}.{getattr(named, '__qualname__', '')}")


def _detect(
    batch: Sequence[_Sample], detector: Detector, colors: ColorNamer | None, rules: Mapping[str, float]
) -> dict[str, dict[str, Any]]:
    """What is written of each image: its detections above the lower threshold, or why it cannot be read."""
    read = {sample.name: _read(sample) for sample in batch}
    records: dict[str, dict[str, Any]] = {
        name: {"error": image} for name, image in read.items() if isinstance(image, str)
    }
    images = {name: image for name, image in read.items() if not isinstance(image, str)}
    found = detector(list(images.values())) if images else []
    if len(found) != len(images):
        raise ValueError(f"the detector gave {len(found)} lists of detections for {len(images)} images: give one each")
    asked = {sample.name: sample.metadata for sample in batch}
    floor = min(rules["threshold"], rules["counting_threshold"])
    for (name, image), detections in zip(images.items(), found, strict=True):
        sample = next(sample for sample in batch if sample.name == name)
        unnamed = [
            d for d in asked_colors(kept_detections(detections, asked[name], **rules), asked[name]) if d.color is None
        ]
        names = dict(zip(map(id, unnamed), colors(image, unnamed), strict=True)) if colors and unnamed else {}
        named = [dataclasses.replace(d, color=names.get(id(d), d.color)) for d in detections if d.score > floor]
        _check_named(sample, [] if colors else unnamed)
        records[name] = {"detections": detections_json(named)}
    return records


def _read(sample: _Sample) -> "Image.Image | str":
    """The image, or why it cannot be read."""
    from sana_judge.image_reading import read_image

    try:
        return read_image(sample.path)
    except (OSError, ValueError) as error:
        return str(error)


def _check_named(sample: _Sample, asked: Sequence[Detection]) -> None:
    for detection in asked:
        if detection.color is None:
            raise ValueError(
                f"{sample.metadata['prompt']!r} ({sample.name}) asks for the colour of a {detection.name}, and nobody "
                "named it: give colors=, such as CLIPColors, or detections that have a color"
            )


def _judge(
    samples: Sequence[_Sample], records: Mapping[Any, Mapping[str, Any]], out: Path, rules: Mapping[str, float]
) -> Table:
    results = [_result(sample, records[sample.name], rules) for sample in samples]
    summary = table(result.verdict for result in results)
    unreadable = [result.filename for result in results if result.reason.startswith(UNREADABLE)]
    write_results(out / RESULTS, results)
    facts = {"judged": len(results), "unreadable": unreadable, "rules": dict(rules)}
    write_whole(out / TABLE, json.dumps(dataclasses.asdict(summary) | facts, indent=2).encode() + b"\n")
    if unreadable:
        listed = ", ".join(unreadable[:4]) + (" ..." if len(unreadable) > 4 else "")
        warnings.warn(f"{len(unreadable)} images cannot be read and count as wrong: {listed}", stacklevel=3)
    return summary


def _result(sample: _Sample, record: Mapping[str, Any], rules: Mapping[str, float]) -> Result:
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
