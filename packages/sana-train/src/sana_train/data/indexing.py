"""A manifest of what lies in a folder: image files with their captions, and WebDataset tars, read in place."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sana_train.data.bad_samples import BadSampleError, Reason, Skipped, counts_by_reason
from sana_train.data.image_manifest import ImageManifest, is_below
from sana_train.data.image_reading import MAX_BYTES, SUFFIXES, image_size
from sana_train.data.image_records import ImageRecord
from sana_train.data.tar_index import Member, TarSample, tar_samples

CAPTION_KEYS = ("caption", "prompt", "text")  # of a .json beside an image, in order of preference
MAX_TEXT_BYTES = 2**20
HEADER_BYTES = 2**17  # enough for the headers of nearly all images


def index_folder(folder: str | Path, *, progress: bool = True) -> tuple[ImageManifest, list[Skipped]]:
    """The manifest of a folder, and what had to be left out of it.

    Every `.tar` below the folder is indexed as a WebDataset, every `.jpg`, `.jpeg`, `.png` and `.webp` as itself. The
    caption of an image is the `.txt` of the same name, or "caption", "prompt" or "text" of its `.json`, either a text
    or a list of texts. Images without a caption are taken up too, to be captioned.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no image, or a tar is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}: give one with images or WebDataset tars")
    records: dict[str, ImageRecord] = {}
    skipped: list[Skipped] = []
    source = source_facts(folder)
    with tqdm(unit="image", disable=not progress) as bar:
        for key, make in _samples(folder, skipped):
            bar.update()
            try:
                if key in records:
                    raise BadSampleError(Reason.DUPLICATE, f"{key} comes twice")
                records[key] = make()
            except BadSampleError as error:
                skipped.append(Skipped.of(key, error))
    if not records:
        reasons = "".join(f", {count} {reason}" for reason, count in counts_by_reason(skipped).items())
        raise ValueError(
            f"{folder} holds no image that can be used ({len(skipped)} were skipped{reasons}): give a folder with "
            f".tar, {', '.join(SUFFIXES)}"
        )
    return ImageManifest.of(records.values(), folder, source=source), skipped


def source_facts(folder: Path) -> dict[str, Any]:
    """What tells a folder, as it is now, from others: its place, and a hash of what would be indexed.

    The hash is of the names, sizes and times of change of tars, images and the captions beside them.
    """
    digest, files = hashlib.sha256(), _files(folder)
    for path in files:
        beside = () if path.suffix.lower() == ".tar" else (path.with_suffix(".txt"), path.with_suffix(".json"))
        for file in (path, *beside):
            with suppress(OSError):
                facts = file.stat()
                digest.update(
                    f"{file.relative_to(folder)}\0{facts.st_size} {facts.st_mtime_ns}\n".encode(
                        errors="surrogateescape"
                    )
                )
    return {"folder": os.path.realpath(folder), "files": len(files), "listing": digest.hexdigest()}


def _files(folder: Path) -> list[Path]:
    """The tars and images of a folder, in order, and links and the like that are called so."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in (".tar", *SUFFIXES))
    return sorted(path for path in found if not path.name.startswith(".") and not path.is_dir())


def _samples(folder: Path, skipped: list[Skipped]) -> Iterator[tuple[str, Callable[[], ImageRecord]]]:
    """Each sample's key, and what makes its record or raises BadSampleError."""
    for path in _files(folder):
        name = path.relative_to(folder).as_posix()
        try:
            _check_file(path, name, folder)
        except BadSampleError as error:
            skipped.append(Skipped.of(name, error))
            continue
        if path.suffix.lower() != ".tar":
            yield name, partial(_file_record, path, folder)
        else:
            for sample in tar_samples(path, skipped):
                if any(suffix in SUFFIXES for suffix in sample.files):
                    yield f"{name}/{_as_unicode(sample.key)}", partial(_tar_record, path, sample, folder)


def _check_file(path: Path, name: str, folder: Path) -> None:
    """Raise BadSampleError where a path is not a file below the folder, or a manifest cannot hold its name."""
    if _as_unicode(name) != name or "\\" in name:
        raise BadSampleError(Reason.NAME, f"{name!r} is not UTF-8, or has a backslash: rename it")
    if not is_below(path, folder):
        raise BadSampleError(Reason.OUTSIDE, f"{name} is a link that leads out of {folder}")
    if not path.is_file():
        raise BadSampleError(Reason.MISSING, f"{name} is a link that leads nowhere, or not a plain file")


def _as_unicode(text: str) -> str:
    """The text with ? for each half of a character, which neither Parquet nor UTF-8 can hold."""
    return text.encode(errors="replace").decode()


def _file_record(path: Path, folder: Path) -> ImageRecord:
    def beside(suffix: str) -> bytes | None:
        text = path.with_suffix(suffix)
        if not text.is_file() or not is_below(text, folder):
            return None
        return _read(text, 0, min(text.stat().st_size, MAX_TEXT_BYTES))

    name = path.relative_to(folder).as_posix()
    return _record(name, path, folder, Member(name, 0, path.stat().st_size), beside)


def _tar_record(path: Path, sample: TarSample, folder: Path) -> ImageRecord:
    def beside(suffix: str) -> bytes | None:
        member = sample.files.get(suffix)
        return None if member is None else _read(path, member.offset, min(member.size, MAX_TEXT_BYTES))

    image = next(sample.files[suffix] for suffix in SUFFIXES if suffix in sample.files)
    name = path.relative_to(folder).as_posix()
    return _record(f"{name}/{_as_unicode(sample.key)}", path, folder, image, beside)


def _record(key: str, path: Path, folder: Path, image: Member, beside: Callable[[str], bytes | None]) -> ImageRecord:
    if image.size > MAX_BYTES:
        raise BadSampleError(Reason.TOO_LARGE, f"it has {image.size:,} bytes, and at most {MAX_BYTES:,} are read")
    height, width = _size(path, image)
    captions = _captions(beside)
    return ImageRecord(
        key=key,
        file=path.relative_to(folder).as_posix(),
        offset=image.offset,
        size=image.size,
        height=height,
        width=width,
        captions=captions,
        scores=(None,) * len(captions),
        sources=("original",) * len(captions),
    )


def _size(path: Path, image: Member) -> tuple[int, int]:
    """From the first bytes, unless the header goes on behind them."""
    if image.size > HEADER_BYTES:
        try:
            return image_size(_read(path, image.offset, HEADER_BYTES))
        except BadSampleError:
            pass
    return image_size(_read(path, image.offset, image.size))


def _captions(beside: Callable[[str], bytes | None]) -> tuple[str, ...]:
    """What is not text is not a caption: the image can still be captioned."""
    found: Any = None
    try:
        if (text := beside(".txt")) is not None:
            found = text.decode("utf-8-sig")
        elif (text := beside(".json")) is not None:
            facts = json.loads(text)
            found = (
                next((facts[key] for key in CAPTION_KEYS if key in facts), None) if isinstance(facts, dict) else None
            )
    except (ValueError, RecursionError):  # the latter of JSON that is nested too deep
        return ()
    texts = found if isinstance(found, list) else [found]
    return tuple(_as_unicode(text.strip()) for text in texts if isinstance(text, str) and text.strip())


def _read(path: Path, offset: int, size: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(size)
    except OSError as error:
        raise BadSampleError(Reason.MISSING, f"{path.name}: {error.strerror}") from error
