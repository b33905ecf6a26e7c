"""GenEval's rules on plain detections (Ghosh et al., 2023, arXiv:2310.11513): no detector, no torch, no images."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

RELATIONS = ("left of", "right of", "above", "below")

# The official detector reports at most this many objects of a class.
MAX_PER_CLASS = 16

Box = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Detection:
    """One detected object: its class, confidence, box (x0, y0, x1, y1) with y pointing down, and its colour if known.

    GenEval names colours with CLIP; here whoever detects the object names them.
    """

    name: str
    score: float
    box: Box
    color: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Whether one image shows what its prompt asks for; `reason` says what is wrong, "" when nothing is."""

    tag: str
    prompt: str
    correct: bool
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """GenEval's summary: shares in [0, 1].

    tasks: correct images of each task; overall: mean of `tasks`, every task weighing the same; images: correct
    images of all; prompts: prompts with at least one correct image.
    """

    tasks: dict[str, float]
    overall: float
    images: float
    prompts: float

    def __str__(self) -> str:
        rows = [*self.tasks.items(), ("overall (mean of tasks)", self.overall)]
        rows += [("correct images", self.images), ("prompts with a correct image", self.prompts)]
        return "\n".join(f"{name:<28} {100 * share:6.2f}%" for name, share in rows)


def evaluate(
    detections: Iterable[Detection],
    metadata: Mapping[str, Any],
    *,
    threshold: float = 0.3,
    counting_threshold: float = 0.9,
) -> Verdict:
    """Judge one image by GenEval's rules.

    metadata is one line of GenEval's evaluation_metadata.jsonl: tag, prompt, include (class, count and, where asked,
    color and position), exclude. Detections count when their score is above `threshold`, or `counting_threshold`
    for the tag "counting". Each requirement looks at the best `count` objects of its class.

    Raises ValueError for a position that refers to no earlier requirement or names no known relation.
    """
    tag = metadata.get("tag", "")
    kept = _keep(detections, counting_threshold if tag == "counting" else threshold)
    reasons: list[str] = []
    matched: list[Sequence[Detection] | None] = []
    for requirement in metadata.get("include", ()):
        found = kept.get(requirement["class"], [])[: requirement["count"]]
        wrong = _shortfall(found, requirement) or _misplaced(found, requirement, matched)
        reasons += wrong
        matched.append(None if wrong else found)
    for requirement in metadata.get("exclude", ()):
        name, count = requirement["class"], len(kept.get(requirement["class"], ()))
        if count >= requirement["count"]:
            reasons.append(f"expected {name}<{requirement['count']}, found {count}")
    prompt = metadata.get("prompt", "")
    return Verdict(tag=tag, prompt=prompt, correct=not reasons, reason="\n".join(reasons))


def _keep(detections: Iterable[Detection], threshold: float) -> dict[str, list[Detection]]:
    """The confident detections of each class, best first. No overlap suppression: GenEval's default is none."""
    kept: dict[str, list[Detection]] = {}
    for detection in sorted(detections, key=lambda detection: -detection.score):
        if detection.score > threshold and len(kept.setdefault(detection.name, [])) < MAX_PER_CLASS:
            kept[detection.name].append(detection)
    return kept


def _shortfall(found: Sequence[Detection], requirement: Mapping[str, Any]) -> list[str]:
    """Too few objects, or too few of them in the colour asked for."""
    name, count, color = requirement["class"], requirement["count"], requirement.get("color")
    if len(found) < count:
        return [f"expected {name}>={count}, found {len(found)}"]
    colors = [detection.color for detection in found]
    if color is not None and colors.count(color) < count:
        return [f"expected {color} {name}>={count}, found {', '.join(map(str, colors))}"]
    return []


def _misplaced(
    found: Sequence[Detection], requirement: Mapping[str, Any], matched: Sequence[Sequence[Detection] | None]
) -> list[str]:
    """The first pair that breaks the position asked for: every object must stand so to every object referred to."""
    if "position" not in requirement:
        return []
    name, (expected, index) = requirement["class"], requirement["position"]
    if expected not in RELATIONS or not 0 <= index < len(matched):
        raise ValueError(
            f"position {[expected, index]} of {name!r}: the relation must be one of {', '.join(RELATIONS)}, the "
            f"number that of an earlier entry of include (there are {len(matched)})"
        )
    targets = matched[index]
    if targets is None:
        return [f"no target for {name} to be {expected}"]
    for detection in found:
        for target in targets:
            relations = relative_position(detection.box, target.box)
            if expected not in relations:
                actual = " and ".join(sorted(relations)) or "at no clear side of"
                return [f"expected {name} {expected} target, found {actual} target"]
    return []


def relative_position(box: Box, target: Box) -> set[str]:
    """How `box` stands to `target`: up to two of `RELATIONS`, none where they (nearly) share a centre.

    The offset of the centres is shortened, along each axis, by a tenth of the two boxes' extents together; a
    relation holds where more than half of the whole offset's length is left in its direction.
    """
    offset = [(box[k] + box[k + 2] - target[k] - target[k + 2]) / 2 for k in (0, 1)]
    slack = [0.1 * (box[k + 2] - box[k] + target[k + 2] - target[k]) for k in (0, 1)]
    shortened = [math.copysign(max(abs(o) - s, 0.0), o) for o, s in zip(offset, slack, strict=True)]
    if max(map(abs, shortened)) < 1e-3:
        return set()
    dx, dy = (value / math.hypot(*offset) for value in shortened)
    held = {"left of": dx < -0.5, "right of": dx > 0.5, "above": dy < -0.5, "below": dy > 0.5}
    return {relation for relation, holds in held.items() if holds}


def table(verdicts: Iterable[Verdict]) -> Table:
    """Sum up the verdicts of all images, as GenEval does. Raises ValueError when there are none."""
    by_task: dict[str, list[bool]] = {}
    by_prompt: dict[tuple[str, str], list[bool]] = {}
    for verdict in verdicts:
        by_task.setdefault(verdict.tag, []).append(verdict.correct)
        by_prompt.setdefault((verdict.tag, verdict.prompt), []).append(verdict.correct)
    if not by_task:
        raise ValueError("no verdicts: a table needs at least one judged image")
    tasks = {tag: _share(correct) for tag, correct in by_task.items()}
    return Table(
        tasks=tasks,
        overall=_share(tasks.values()),
        images=_share([image for correct in by_task.values() for image in correct]),
        prompts=_share([any(correct) for correct in by_prompt.values()]),
    )


def _share(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)
