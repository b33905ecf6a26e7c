"""GenEval's folders: DIR/00000/metadata.jsonl and DIR/00000/samples/0000.png, a folder for every prompt."""

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sana_judge.geneval.rules import RELATIONS
from sana_judge.whole_files import read_json_lines, replace_file, write_json_lines

if TYPE_CHECKING:
    from PIL import Image

_METADATA = "metadata.jsonl"
_SAMPLES = "samples"
_IMAGE = re.compile(r"\d+\.png")

Metadata = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptFolder:
    """The images of one prompt: the folder's number, its metadata, and the files in the order of their numbers."""

    number: int
    metadata: Metadata
    images: tuple[Path, ...]


def read_metadata(path: str | PathLike[str]) -> list[Metadata]:
    """Read GenEval's evaluation_metadata.jsonl: one prompt a line, with tag, prompt, include and maybe exclude.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line lacks a field or asks for something that the rules do not know: names it.
    """
    records = read_json_lines(Path(path))
    for number, record in enumerate(records, 1):
        check_metadata(record, f"line {number} of {path}")
    return list(records)


def write_metadata(path: str | PathLike[str], metadata: Sequence[Metadata]) -> None:
    """Write GenEval's evaluation_metadata.jsonl, whole or not at all. Raises ValueError as `read_metadata` does."""
    for number, record in enumerate(metadata, 1):
        check_metadata(record, f"metadata {number}")
    write_json_lines(Path(path), metadata)


def save_prompt(
    directory: str | PathLike[str], number: int, metadata: Metadata, images: Sequence["Image.Image"]
) -> None:
    """Write one prompt's folder as GenEval's generator does: DIR/00007/metadata.jsonl, DIR/00007/samples/00000.png.

    The metadata comes last, so that a folder that has it has all images; those that are there may be left out.
    Raises ValueError as `read_metadata` does.
    """
    check_metadata(metadata, f"the metadata of prompt {number}")
    folder = Path(directory) / f"{number:05}"
    for index, image in enumerate(images):
        replace_file(folder / _SAMPLES / f"{index:05}.png", partial(image.save, format="PNG"))
    write_json_lines(folder / _METADATA, [metadata])


def read_directory(directory: str | PathLike[str], metadata: Sequence[Metadata] | None = None) -> list[PromptFolder]:
    """Read GenEval's layout, in the order of the folders' numbers; other folders and files are passed over.

    metadata: the lines of evaluation_metadata.jsonl. Where it is given, it says what is asked, by the folder's number
    or else by its prompt, and a folder that says something else is warned about: the released SANA scripts drop
    `exclude`, and then "two cars" would be right with three.

    Raises:
        FileNotFoundError: There is no such folder, no prompt's folder in it, or one without metadata.jsonl.
        ValueError: A metadata.jsonl holds something else than one prompt, or `metadata` does not have the prompt.
    """
    root = Path(directory)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder: give the one that holds GenEval's images")
    numbered = sorted((path for path in root.iterdir() if path.is_dir() and path.name.isdecimal()), key=_number)
    if not numbered:
        raise FileNotFoundError(
            f"{root} holds no GenEval folders: it must hold 00000/metadata.jsonl, 00000/samples/*.png"
        )
    folders = [_read_folder(path) for path in numbered]
    if metadata is not None:
        folders = _with_official(folders, metadata)
    for folder in folders:
        check_metadata(folder.metadata, f"the metadata of folder {folder.number:05}")
    _warn_of(folders)
    return folders


def check_metadata(record: Metadata, name: str) -> None:
    """Raise ValueError, with `name`, for metadata that the rules cannot judge by."""
    try:
        fields = [record["tag"], record["prompt"]]
        requirements = [*record.get("include", ()), *record.get("exclude", ())]
        valid = all(isinstance(field, str) for field in fields) and all(map(_valid, requirements))
        positions = [
            (index, *entry["position"]) for index, entry in enumerate(record.get("include", ())) if "position" in entry
        ]
        valid &= all(relation in RELATIONS and 0 <= target < index for index, relation, target in positions)
    except (KeyError, TypeError, ValueError):
        valid = False
    if not valid:
        raise ValueError(
            f"{name} is {json.dumps(record, ensure_ascii=False)}; it must have tag and prompt, and include and exclude "
            f"whose entries have class, count, and maybe color and position [one of {', '.join(RELATIONS)}, the number "
            "of an earlier entry of include]"
        )


def _valid(requirement: Metadata) -> bool:
    count = requirement["count"]
    named = isinstance(requirement["class"], str) and isinstance(requirement.get("color", ""), str)
    return named and isinstance(count, int) and count >= 0


def _number(path: Path) -> tuple[int, str]:
    return int(path.stem), path.name


def _read_folder(folder: Path) -> PromptFolder:
    path = folder / _METADATA
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no {_METADATA}: it must hold the prompt's line of evaluation_metadata.jsonl"
        )
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not one JSON object ({error}): write the prompt's metadata again") from error
    if not isinstance(metadata, dict):
        raise ValueError(
            f"{path} holds a {type(metadata).__name__}, not one JSON object: write the prompt's metadata again"
        )
    samples = folder / _SAMPLES
    images = [path for path in samples.iterdir() if _IMAGE.fullmatch(path.name)] if samples.is_dir() else []
    return PromptFolder(number=int(folder.name), metadata=metadata, images=tuple(sorted(images, key=_number)))


def _with_official(folders: Sequence[PromptFolder], metadata: Sequence[Metadata]) -> list[PromptFolder]:
    by_prompt = {record["prompt"]: record for record in metadata}
    replaced, changed = [], []
    for folder in folders:
        prompt = folder.metadata.get("prompt")
        official = metadata[folder.number] if folder.number < len(metadata) else {}
        official = official if official.get("prompt") == prompt else by_prompt.get(prompt, {})
        if not official:
            raise ValueError(
                f"folder {folder.number:05} has the prompt {prompt!r}, which the metadata lack: give its own"
            )
        if _asks(official) != _asks(folder.metadata):
            changed.append(f"{folder.number:05}")
        replaced.append(replace(folder, metadata=official))
    if changed:
        warnings.warn(
            f"{len(changed)} folders ask for something else than the metadata given, which count ({_some(changed)})",
            stacklevel=3,
        )
    return replaced


def _asks(metadata: Metadata) -> tuple[Any, ...]:
    return (metadata.get("tag"), metadata.get("include") or [], metadata.get("exclude") or [])


def _warn_of(folders: Sequence[PromptFolder]) -> None:
    """Warn of what makes a table better than it should be, or of fewer prompts."""
    counting = [folder for folder in folders if folder.metadata["tag"] == "counting"]
    open_ended = [f"{folder.number:05}" for folder in counting if not folder.metadata.get("exclude")]
    if open_ended:
        warnings.warn(
            f"{len(open_ended)} counting prompts have no `exclude`, so too many objects count as right "
            f"({_some(open_ended)}): give metadata=, the official evaluation_metadata.jsonl",
            stacklevel=3,
        )
    empty = [f"{folder.number:05}" for folder in folders if not folder.images]
    if empty:
        warnings.warn(f"{len(empty)} prompts have no images and do not count ({_some(empty)})", stacklevel=3)


def _some(folders: Sequence[str]) -> str:
    return ", ".join([*folders[:4], *["..."][: len(folders) > 4]])
