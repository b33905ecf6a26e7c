"""What the emoji judge is asked: about real renders and about samples of the model, labelled by GenEval's rules."""

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from recipes.emoji.captions import caption
from recipes.emoji.contents import TAGS, Content, Group, is_held_out, sample_training_content
from recipes.emoji.detector import THRESHOLD, judge, true_detections
from recipes.emoji.detector_scenes import wear
from recipes.emoji.judge_samples import Sample
from recipes.emoji.scenes import LANGUAGE_WEIGHTS, SIZE, arrange, render, sample_scene
from recipes.emoji.sprites import SpriteSheet
from recipes.emoji.vocabulary import COLORS, THINGS
from sana_judge import Detection
from sana_judge.training import Asked, hard_negatives

QUESTIONS = 4  # per picture; the picture is looked at once
WORN = 0.6  # share of pictures that are softened, dimmed or compressed
FLIPPED = 0.5  # share of samples that are mirrored: there are few of them

Pixels = npt.NDArray[np.uint8]
Found = Sequence[Detection]


@dataclass(frozen=True, slots=True)
class Pictured:
    """A picture (128, 128, 3), what is in it, and the questions about it."""

    pixels: Pixels
    found: Found
    asked: tuple[Asked, ...]


def training_scene(rng: random.Random, sprites: SpriteSheet) -> Pictured:
    """A real render in which nothing is held out, and questions that name nothing held out."""
    scene = sample_scene(rng, sprites)
    found = true_detections(scene)
    asked = _ask(_questions(scene.content, rng), found, rng)
    return Pictured(_worn(render(scene, sprites), rng), found, asked)


def training_sample(rng: random.Random, pixels: Pixels, sample: Sample) -> Pictured:
    """A sample of the model, seen by the detector; half of them mirrored, their boxes too."""
    painted = {group.name for group in sample.content.groups if group.color}
    found = [_unless_painted(seen, painted) for seen in sample.found if seen.score > THRESHOLD]
    if rng.random() < FLIPPED:
        pixels, found = np.ascontiguousarray(pixels[:, ::-1]), [_mirrored(seen) for seen in found]
    own = Content(sample.content.tag, sample.content.groups, sample.content.relation)
    return Pictured(_worn(pixels, rng), found, _ask(_questions(own, rng), found, rng))


def _unless_painted(seen: Detection, painted: Collection[str]) -> Detection:
    """A detection without the colour that the detector names even where the prompt asked for none."""
    return seen if seen.name in painted else replace(seen, color=None)


def held_out_scene(content: Content, sprites: SpriteSheet, rng: random.Random) -> Iterator[Pictured]:
    """A held-out prompt about three scenes that show it, and about one of each kind that just misses it.

    Those show one of `near_misses`, or the first of two objects alone.
    """
    prompt = caption(content, "english")
    alone = [Content("single_object", content.groups[:1])] if len(content.groups) == 2 else []
    for shown in (content, content, content, *near_misses(content, rng), *alone):
        scene = arrange(shown, sprites, rng)
        found = true_detections(scene)
        label = float(judge(found, content.metadata(prompt)).correct)
        yield Pictured(render(scene, sprites), found, (Asked(prompt, label, prompt),))


def near_misses(content: Content, rng: random.Random) -> list[Content]:
    """Contents that differ in one count, colour, relation or object; at most one of another colour for each group."""
    changed = hard_negatives(content.metadata(""), say=lambda metadata: "", colors=tuple(COLORS))
    contents = [content_of(metadata) for metadata in changed]
    if sum(group.color is not None for group in content.groups) == 1:
        repainted = [other for other in contents if _colors(other) != _colors(content)]
        contents = [other for other in contents if other not in repainted] + [rng.choice(repainted)]
    drawable = [other for other in contents if sum(group.count for group in other.groups) <= 4]
    return [*drawable, _other_object(content, rng)]


def content_of(metadata: Mapping[str, Any]) -> Content:
    """The content that has this metadata; the inverse of `Content.metadata`."""
    groups = [Group(item["class"], item["count"], item.get("color")) for item in metadata["include"]]
    relations = [item["position"][0] for item in metadata["include"] if "position" in item]
    if relations:
        groups.reverse()
    return Content(metadata["tag"], tuple(groups), relations[0] if relations else None)


def patch_targets(found: Found, patches: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The object (P * P,), len(THINGS) for none, and its colour, -1 for unknown, at the centre of each patch."""
    objects = np.full((patches, patches), len(THINGS))
    colors = np.full((patches, patches), -1)
    centers = (np.arange(patches) + 0.5) * SIZE / patches
    for seen in found:
        x0, y0, x1, y1 = seen.box
        inside = np.ix_((y0 <= centers) & (centers < y1), (x0 <= centers) & (centers < x1))
        objects[inside] = list(THINGS).index(seen.name)
        colors[inside] = -1 if seen.color is None else list(COLORS).index(seen.color)
    return objects.ravel(), colors.ravel()


def _questions(content: Content, rng: random.Random) -> Iterator[Content]:
    """Endlessly: the picture's own content, near misses, parts of it, and others."""
    yield content
    yield rng.choice(near_misses(content, rng))
    while True:
        kind = rng.random()
        if kind < 0.4:
            yield _part(content, rng)
        elif kind < 0.8:
            yield rng.choice(near_misses(_part(content, rng) if rng.random() < 0.3 else content, rng))
        else:
            yield sample_training_content(rng, rng.choice(TAGS))


def _ask(contents: Iterator[Content], found: Found, rng: random.Random) -> tuple[Asked, ...]:
    """The first questions that may be asked, worded in some language and answered by GenEval's rules."""
    asked: list[Asked] = []
    while len(asked) < QUESTIONS:
        content = next(contents)
        if any(map(is_held_out, content.facts)) or _is_ambiguous(content, found):
            continue
        language = rng.choices(list(LANGUAGE_WEIGHTS), list(LANGUAGE_WEIGHTS.values()))[0]
        prompt = caption(content, language, rng)
        label = float(judge(found, content.metadata(prompt)).correct)
        asked.append(Asked(prompt, label, prompt))
    return tuple(asked)


def _is_ambiguous(content: Content, found: Found) -> bool:
    """Whether a colour is asked of an object in the colour that it comes in: an apple is red, but not painted red."""
    painted = {group.name for group in content.groups if group.color}
    return any(seen.name in painted and seen.color is None for seen in found)


def _part(content: Content, rng: random.Random) -> Content:
    """Something that is also true where the content is: fewer groups, fewer attributes, the other way round."""
    if len(content.groups) == 2 and rng.random() < 0.5:
        one, two = content.groups
        if content.relation is None:
            return Content(content.tag, (two, one))
        plain = tuple(Group(group.name, group.count) for group in content.groups)
        return Content(content.tag, plain, content.relation if rng.random() < 0.5 else None)
    group = rng.choice(content.groups)
    if group.color is None or rng.random() < 0.3:
        tag = "counting" if group.count > 1 else "single_object"
        return Content(tag, (Group(group.name, group.count),))
    return Content("colors", (group,))


def _other_object(content: Content, rng: random.Random) -> Content:
    """The same with another kind of object in place of one."""
    groups = list(content.groups)
    place = rng.randrange(len(groups))
    others = [name for name in THINGS if name not in {group.name for group in groups}]
    groups[place] = Group(rng.choice(others), groups[place].count, groups[place].color)
    return Content(content.tag, tuple(groups), content.relation)


def _colors(content: Content) -> tuple[str | None, ...]:
    return tuple(group.color for group in content.groups)


def _mirrored(seen: Detection) -> Detection:
    x0, y0, x1, y1 = seen.box
    return Detection(name=seen.name, score=seen.score, box=(SIZE - x1, y0, SIZE - x0, y1), color=seen.color)


def _worn(pixels: Pixels, rng: random.Random) -> Pixels:
    return wear(pixels, rng) if rng.random() < WORN else pixels
