"""GenEval's rules on plain detections (Ghosh et al., 2023, arXiv:2310.11513): no detector, no torch, no images."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

RELATIONS = ("left of", "right of", "above", "below")
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")

# The defaults of the official evaluator.
THRESHOLD = 0.3
COUNTING_THRESHOLD = 0.9
MAX_PER_CLASS = 16

Box = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Detection:
    """One detected object: its class, confidence, box (x0, y0, x1, y1) with y pointing down, and its colour if known.

    GenEval names colours with CLIP, by the pixels of the mask, an (H, W) array of booleans that only detectors and
    `CLIPColors` look at; a detector that names colours itself needs none.
    """

    name: str
    score: float
    box: Box
    color: str | None = None
    mask: Any = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.score, *self.box))):
            raise ValueError(f"a {self.name} has the score {self.score} and the box {self.box}; they must be finite")


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Whether one image shows what its prompt asks for; `reason` says what is wrong, "" when nothing is."""

    tag: str
    prompt: str
    correct: bool
    reason: str


def evaluate(
    detections: Iterable[Detection],
    metadata: Mapping[str, Any],
    *,
    threshold: float = THRESHOLD,
    counting_threshold: float = COUNTING_THRESHOLD,
    max_overlap: float = 1.0,
) -> Verdict:
    """Judge one image by GenEval's rules, in the words of its reasons.

    metadata is one line of GenEval's evaluation_metadata.jsonl: tag, prompt, include (class, count and, where asked,
    color and position), exclude. What counts is said at `kept_detections`. Each requirement looks at the best `count`
    objects of its class.

    Raises ValueError for a position that refers to no earlier requirement or names no known relation, and for a
    threshold that is not from 0 to 1.
    """
    kept = kept_detections(
        detections,
        metadata,
        threshold=threshold,
        counting_threshold=counting_threshold,
        max_overlap=max_overlap,
    )
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
    tag, prompt = metadata.get("tag", ""), metadata.get("prompt", "")
    return Verdict(tag=tag, prompt=prompt, correct=not reasons, reason="\n".join(reasons))


def check_rules(*, threshold: float, counting_threshold: float, max_overlap: float) -> None:
    """Raise ValueError for a bound that is not from 0 to 1."""
    rules = {"threshold": threshold, "counting_threshold": counting_threshold, "max_overlap": max_overlap}
    for name, bound in rules.items():
        if not 0 <= bound <= 1:
            raise ValueError(f"{name} is {bound}; it must be from 0 to 1")


def kept_detections(
    detections: Iterable[Detection],
    metadata: Mapping[str, Any],
    *,
    threshold: float = THRESHOLD,
    counting_threshold: float = COUNTING_THRESHOLD,
    max_overlap: float = 1.0,
) -> dict[str, list[Detection]]:
    """The detections of each class that count, best first; of equal scores the later one first, as in the original.

    Those with a score above `threshold`, or `counting_threshold` for the tag "counting"; of those the best 16; of
    those each that overlaps no better one by `max_overlap` or more. 1.0, GenEval's default, keeps all.
    """
    check_rules(threshold=threshold, counting_threshold=counting_threshold, max_overlap=max_overlap)
    bound = counting_threshold if metadata.get("tag") == "counting" else threshold
    best_first = sorted(detections, key=lambda detection: detection.score)[::-1]
    kept: dict[str, list[Detection]] = {}
    for detection in best_first:
        if detection.score > bound and len(kept.setdefault(detection.name, [])) < MAX_PER_CLASS:
            kept[detection.name].append(detection)
    if max_overlap != 1.0:
        kept = {name: _suppress(of_class, max_overlap) for name, of_class in kept.items()}
    return kept


def asked_colors(kept: Mapping[str, Sequence[Detection]], metadata: Mapping[str, Any]) -> list[Detection]:
    """The kept detections whose colours `evaluate` will look at: the best `count` of a class, if there are so many."""
    asked: dict[int, Detection] = {}
    for requirement in metadata.get("include", ()):
        found = kept.get(requirement["class"], ())[: requirement["count"]]
        if "color" in requirement and len(found) == requirement["count"]:
            asked |= {id(detection): detection for detection in found}
    return list(asked.values())


def relative_position(box: Box, target: Box) -> set[str]:
    """How `box` stands to `target`: up to two of `RELATIONS`, none where they (nearly) share a centre.

    The offset of the centres is shortened, along each axis, by a tenth of the two boxes' extents together; a
    relation holds where more than half of the whole offset's length is left in its direction.
    """
    offset = [(box[k] + box[k + 2] - target[k] - target[k + 2]) / 2 for k in (0, 1)]
    slack = [0.1 * (abs(box[k + 2] - box[k]) + abs(target[k + 2] - target[k])) for k in (0, 1)]
    shortened = [math.copysign(max(abs(o) - s, 0.0), o) for o, s in zip(offset, slack, strict=True)]
    if max(map(abs, shortened)) < 1e-3:
        return set()
    dx, dy = (value / math.hypot(*offset) for value in shortened)
    held = {"left of": dx < -0.5, "right of": dx > 0.5, "above": dy < -0.5, "below": dy > 0.5}
    return {relation for relation, holds in held.items() if holds}


def _suppress(best_first: Sequence[Detection], max_overlap: float) -> list[Detection]:
    kept: list[Detection] = []
    for detection in best_first:
        if all(_overlap(better.box, detection.box) < max_overlap for better in kept):
            kept.append(detection)
    return kept


def _overlap(box: Box, other: Box) -> float:
    """Intersection over union of boxes whose last row and column count as inside, the original's convention."""
    shared = (*map(max, box[:2], other[:2]), *map(min, box[2:], other[2:]))
    intersection = _area(shared)
    union = _area(box) + _area(other) - intersection
    return intersection / union if union else 0.0


def _area(box: Sequence[float]) -> float:
    return max(box[2] - box[0] + 1, 0.0) * max(box[3] - box[1] + 1, 0.0)


def _shortfall(found: Sequence[Detection], requirement: Mapping[str, Any]) -> list[str]:
    """Too few objects, or too few of them in the colour asked for."""
    name, count, color = requirement["class"], requirement["count"], requirement.get("color")
    if len(found) < count:
        return [f"expected {name}>={count}, found {len(found)}"]
    colors = [detection.color for detection in found]
    if color is not None and colors.count(color) < count:
        listed = ", ".join(
            f"{colors.count(seen)} {seen or 'unnamed'}" for seen in sorted(set(colors), key=_color_order)
        )
        return [f"expected {color} {name}>={count}, found {colors.count(color)} {color}; and {listed}"]
    return []


def _color_order(color: str | None) -> tuple[int, str]:
    """GenEval's order of colours; those of other detectors come after it, by name."""
    return (COLORS.index(color) if color in COLORS else len(COLORS), color or "")


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
                # Empty where the centres nearly agree, as in the original; two are sorted, there in no fixed order.
                return [f"expected {name} {expected} target, found {' and '.join(sorted(relations))} target"]
    return []
