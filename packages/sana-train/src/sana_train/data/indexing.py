"""A manifest of what lies in a folder: image files with their captions, and WebDataset tars, read in place."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sana_train.data.bad_samples import BadSampleError, Reason, Skipped
from sana_train.data.image_manifest import ImageManifest
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
        raise ValueError(
            f"{folder} holds no image that can be used ({len(skipped)} were skipped): give a folder with .tar, "
            f"{', '.join(SUFFIXES)}"
        )
    return ImageManifest.of(records.values(), folder), skipped


def _samples(folder: Path, skipped: list[Skipped]) -> Iterator[tuple[str, Callable[[], ImageRecord]]]:
    """Each sample's key, and what makes its record or raises BadSampleError."""
    root = folder.resolve()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix.lower() not in (".tar", *SUFFIXES) or path.name.startswith("."):
            continue
        if not path.resolve().is_relative_to(root):
            outside = BadSampleError(Reason.OUTSIDE, f"{name} is a link that leads out of {folder}")
            skipped.append(Skipped.of(name, outside))
        elif path.suffix.lower() != ".tar":
            yield name, partial(_file_record, path, folder)
        else:
            for sample in tar_samples(path, skipped):
                if any(suffix in SUFFIXES for suffix in sample.files):
                    yield f"{name}/{sample.key}", partial(_tar_record, path, sample, folder)


def _file_record(path: Path, folder: Path) -> ImageRecord:
    def beside(suffix: str) -> bytes | None:
        text = path.with_suffix(suffix)
        if not text.is_file() or not text.resolve().is_relative_to(folder.resolve()):
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
    return _record(f"{name}/{sample.key}", path, folder, image, beside)


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
    """What is not text is no caption: the image can still be captioned."""
    found: Any = None
    try:
        if (text := beside(".txt")) is not None:
            found = text.decode("utf-8-sig")
        elif (text := beside(".json")) is not None:
            facts = json.loads(text)
            found = (
                next((facts[key] for key in CAPTION_KEYS if key in facts), None) if isinstance(facts, dict) else None
            )
    except ValueError:
        return ()
    texts = found if isinstance(found, list) else [found]
    return tuple(text.strip() for text in texts if isinstance(text, str) and text.strip())


def _read(path: Path, offset: int, size: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(size)
    except OSError as error:
        raise BadSampleError(Reason.MISSING, f"{path.name}: {error.strerror}") from error
