"""Labelled pictures in a file of JSON lines: prompt, image, label, and what helps to use them."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sana_judge.image_reading import read_image
from sana_judge.training.splitting import is_held_back

_FIELDS = {"prompt": str, "image": str, "label": int | float, "task": str, "group": str, "negatives": list}
_REQUIRED = ("prompt", "image", "label")


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One labelled picture.

    Attributes:
        prompt: What the picture should show.
        image: Where it is.
        label: 1 for a picture that shows it, 0 for one that does not, in between where opinions differ.
        task: The kind of prompt, such as "counting"; "" if unknown.
        group: Examples of one group stay on one side of the split and compete with each other; by default the prompt.
        negatives: Prompts that the picture certainly does not show, see `hard_negatives`.
    """

    prompt: str
    image: Path
    label: float
    task: str = ""
    group: str
    negatives: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Examples:
    """The examples of a file, and the lines whose image is missing or damaged, each with the reason."""

    usable: tuple[Example, ...]
    refused: dict[int, str] = field(default_factory=dict)

    def split(self, share: float) -> tuple[list[Example], list[Example]]:
        """Training and validation; about `share` of the groups go to the latter, each whole (see `is_held_back`)."""
        return split_groups(self.usable, share)


def read_examples(path: str | PathLike[str], *, check_images: bool = True, progress: bool = True) -> Examples:
    """Read a file of lines `{"prompt": ..., "image": ..., "label": ..., "task"?, "group"?, "negatives"?}`.

    Args:
        path: the file; images are relative to its folder and must lie below it.
        check_images: decode every image now, so that a damaged one is left out and not met in the middle of a run.
        progress: whether to show a bar when that takes longer than a second.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not an example, or its image lies outside; names the line. Or no example is usable.
    """
    path = Path(path)
    lines = path.read_text(encoding="utf-8").split("\n")  # U+2028 and U+0085 end no line of JSON
    numbered = {number: _example(line, path, number) for number, line in enumerate(lines, 1) if line.strip()}
    refused: dict[int, str] = {}
    for number, example in tqdm(numbered.items(), desc="reading images", delay=1, disable=not progress):
        if reason := _unusable(example.image, check_images):
            refused[number] = reason
    usable = tuple(example for number, example in numbered.items() if number not in refused)
    if not usable:
        first = next(iter(refused.values()), "it is empty")
        raise ValueError(f"{path} has no usable example ({first}): give lines with prompt, image and label")
    return Examples(usable=usable, refused=refused)


def split_groups(examples: Iterable[Example], share: float, *, salt: str = "") -> tuple[list[Example], list[Example]]:
    """The examples to train on, and those whose group is held back for validation."""
    sides: tuple[list[Example], list[Example]] = ([], [])
    for example in examples:
        sides[is_held_back(example.group, share, salt=salt)].append(example)
    return sides


def _example(line: str, path: Path, number: int) -> Example:
    where = f"line {number} of {path}"
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON ({error}): give one object a line") from error
    _check_fields(fields, where)
    return Example(
        prompt=fields["prompt"],
        image=_inside(path.parent, fields["image"], where),
        label=float(fields["label"]),
        task=fields.get("task", ""),
        group=fields.get("group", fields["prompt"]),
        negatives=tuple(fields.get("negatives", ())),
    )


def _check_fields(fields: Any, where: str) -> None:
    if not isinstance(fields, dict):
        raise ValueError(f"{where} is {fields!r}; it must be an object with prompt, image and label")
    if missing := [name for name in _REQUIRED if name not in fields]:
        raise ValueError(f"{where} has no {missing[0]}; it must have prompt, image and label")
    if unknown := sorted(fields.keys() - _FIELDS.keys()):
        raise ValueError(f"{where} has {unknown[0]}; known are {', '.join(_FIELDS)}")
    for name, value in fields.items():
        if not isinstance(value, _FIELDS[name]):
            raise ValueError(
                f"{where} has {name} {value!r}; it must be of type {getattr(_FIELDS[name], '__name__', 'number')}"
            )
    if not 0 <= fields["label"] <= 1:
        raise ValueError(f"{where} has label {fields['label']}; it must be from 0 to 1")
    if not all(isinstance(negative, str) for negative in fields.get("negatives", ())):
        raise ValueError(f"{where} has negatives {fields['negatives']!r}; they must be prompts")


def _inside(folder: Path, name: str, where: str) -> Path:
    """The image's path, links followed: nothing outside the folder of the data is ever opened."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"{where} has the image {name!r}, outside {folder}; put images below the file that lists them")
    return path


def _unusable(image: Path, check: bool) -> str | None:
    if not image.is_file():
        return f"{image} is missing"
    if check:
        try:
            read_image(image)
        except (OSError, ValueError) as error:
            return str(error)
    return None
