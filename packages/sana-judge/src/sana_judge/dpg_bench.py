"""DPG-Bench's score (Hu et al., 2024, arXiv:2403.05135): a question counts only where those it depends on are right."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One question about a prompt's image: its number, those it depends on, and its category, "entity - whole"."""

    number: int
    text: str
    category: str
    parents: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class DPGTable:
    """Shares in [0, 1]; DPG-Bench prints them times 100.

    overall: mean over prompts; prompts: each prompt's mean over its images; broad ("entity") and detailed
    ("entity - whole"): mean answers by category, where no dependency counts.
    """

    overall: float
    broad: dict[str, float]
    detailed: dict[str, float]
    prompts: dict[str, float]


def read_dpg_bench(path: str | PathLike[str]) -> dict[str, list[Question]]:
    """Read dpg_bench.csv: the questions of every item, by the item's name, which its image files bear.

    The official script passes over the first row, and then loses the first item, whose other questions depend on it;
    here that row counts.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A row is something else, or depends on a question that its item lacks: names it.
    """
    items: dict[str, list[Question]] = {}
    with Path(path).open(encoding="utf-8-sig", newline="") as file:
        for number, row in enumerate(csv.DictReader(file), 2):
            try:
                items.setdefault(row["item_id"], []).append(_parse(row))
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise ValueError(
                    f"row {number} of {path} is not a question of DPG-Bench ({error!r}): fetch it again"
                ) from error
    for item, questions in items.items():
        known = {question.number for question in questions}
        for question in questions:
            if lost := set(question.parents) - known:
                raise ValueError(
                    f"question {question.number} of {item} in {path} depends on {sorted(lost)}, which it lacks"
                )
    return items


def score_image(questions: Sequence[Question], answers: Mapping[int, bool]) -> float:
    """The share of questions answered yes; a yes counts only if all questions that it depends on count.

    Questions are gone through in their order, so a "no" reaches grandchildren that come later, as in the original.

    Args:
        questions: Those of one prompt, with numbers of their own.
        answers: By the questions' numbers, whether the answer was "yes".

    Raises ValueError where there are no questions, or one has no answer.
    """
    _check_answers(questions, answers)
    counts = {question.number: bool(answers[question.number]) for question in questions}
    for question in questions:
        if not all(counts[parent] for parent in question.parents):
            counts[question.number] = False
    return sum(counts.values()) / len(counts)


def table(questions: Mapping[str, Sequence[Question]], answers: Mapping[str, Sequence[Mapping[int, bool]]]) -> DPGTable:
    """Sum up as the official script does: `answers` holds, by item, those about each of its images.

    A prompt's score is the mean of its images'; categories see the answers about its last image only.

    Raises ValueError where there are no items, one is unknown or has no images, or a question has no answer.
    """
    if not answers:
        raise ValueError("no answers: a table needs at least one item")
    prompts: dict[str, float] = {}
    detailed: dict[str, list[bool]] = {}
    broad: dict[str, list[bool]] = {}
    for item, of_images in answers.items():
        if item not in questions or not of_images:
            raise ValueError(f"{item!r} is unknown or has no images; give one of {len(questions)} items, with answers")
        prompts[item] = _mean([score_image(questions[item], of_image) for of_image in of_images])
        for question in questions[item]:
            answer = bool(of_images[-1][question.number])
            detailed.setdefault(question.category, []).append(answer)
            broad.setdefault(question.category.split("-")[0].strip(), []).append(answer)
    return DPGTable(
        overall=_mean(list(prompts.values())),
        broad={category: _mean(of_category) for category, of_category in sorted(broad.items())},
        detailed={category: _mean(of_category) for category, of_category in sorted(detailed.items())},
        prompts=prompts,
    )


def split_grid(grid: "Image.Image", *, side: int, count: int = 4) -> list["Image.Image"]:
    """The first `count` images of DPG-Bench's 2 x 2 files, `side` pixels each, row by row.

    Raises ValueError where the file is too small for them.
    """
    corners = [(0, 0), (side, 0), (0, side), (side, side)]
    if not 1 <= count <= len(corners):
        raise ValueError(f"count is {count}; a grid holds from 1 to {len(corners)} images")
    boxes = [(left, top, left + side, top + side) for left, top in corners[:count]]
    if max(box[2] for box in boxes) > grid.width or max(box[3] for box in boxes) > grid.height:
        raise ValueError(f"a grid of {count} images of {side} pixels does not fit into {grid.width}x{grid.height}")
    return [grid.crop(box) for box in boxes]


def _parse(row: Mapping[str, str]) -> Question:
    parents = tuple(int(parent) for parent in row["dependency"].split(","))
    return Question(
        number=int(row["proposition_id"]),
        text=row["question_natural_language"],
        category=row["tuple"].split("(")[0].strip(),
        parents=tuple(parent for parent in parents if parent),  # 0 stands for none
    )


def _check_answers(questions: Sequence[Question], answers: Mapping[int, bool]) -> None:
    if not questions or (missing := [each.number for each in questions if each.number not in answers]):
        raise ValueError(
            f"{len(questions)} questions, {missing if questions else 'none'} without an answer: answer each"
        )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
