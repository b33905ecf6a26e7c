"""What a scene shows, before any words or pixels: GenEval's six tasks, a free mixture, and the held-out split."""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import combinations, permutations, product
from typing import Any

from recipes.emoji.vocabulary import COLORS, RELATIONS, THINGS

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
MIXTURE = "mixture"
TAGS = (*TASKS, MIXTURE)

HELD_OUT_SHARE = 1 / 8
# The salt of the hash, picked so that the smallest family, 192 painted objects, has exactly 24 held out, at most two
# of an object and four of a colour, and none in the colour that the emoji has anyway (a red heart, a green tree).
_SPLIT = "emoji-30714"

_NAMES = tuple(THINGS)
_COLORS = tuple(COLORS)
_SWAPPED = {"right of": "left of", "below": "above"}


@dataclass(frozen=True)
class Group:
    """`count` objects of one kind, all in one colour (None: the colour they come in)."""

    name: str
    count: int = 1
    color: str | None = None


@dataclass(frozen=True)
class Content:
    """What one scene shows: one or two groups and where the first is relative to the second."""

    tag: str
    groups: tuple[Group, ...]
    relation: str | None = None

    @cached_property
    def facts(self) -> tuple[str, ...]:
        """What there is to learn from this scene beyond single objects and counts, in no language and no order.

        "a cat right of a dog" and "a dog left of a cat" are one fact; so are the two orders of a pair.
        """
        facts = [f"color {group.color} {group.name}" for group in self.groups if group.color]
        if len(self.groups) == 2:
            one, two = self.groups
            facts.append("pair {} {}".format(*sorted((one.name, two.name))))
            if one.color and two.color:
                painted = sorted(f"{group.color} {group.name}" for group in self.groups)
                facts.append("attr {} {}".format(*painted))
            if self.relation:
                ends = (two, one) if self.relation in _SWAPPED else (one, two)
                facts.append(f"{_SWAPPED.get(self.relation, self.relation)} {ends[0].name} {ends[1].name}")
        return tuple(facts)

    def metadata(self, prompt: str) -> dict[str, Any]:
        """GenEval's metadata of this content: one line of its jsonl.

        The object that a position refers to comes first. Counting excludes one more, as GenEval does; so does the
        mixture, whose counts are all exact.
        """
        include = [_requirement(group) for group in reversed(self.groups)]
        if self.relation is None:
            include.reverse()
        else:
            include[1]["position"] = [self.relation, 0]
        metadata: dict[str, Any] = {"tag": self.tag, "include": include}
        if self.tag in ("counting", MIXTURE):
            metadata["exclude"] = [{"class": item["class"], "count": item["count"] + 1} for item in include]
        return metadata | {"prompt": prompt}


def _requirement(group: Group) -> dict[str, Any]:
    requirement: dict[str, Any] = {"class": group.name, "count": group.count}
    return requirement | ({"color": group.color} if group.color else {})


@cache
def is_held_out(fact: str) -> bool:
    """Whether no training scene may show this fact: about one in eight, by hash."""
    return _rank(fact) < HELD_OUT_SHARE


def _rank(text: str) -> float:
    """A fixed pseudo-random number in [0, 1) for a text, the same everywhere."""
    digest = hashlib.blake2b(f"{_SPLIT} {text}".encode(), digest_size=6).digest()
    return int.from_bytes(digest) / 2**48


def sample_training_content(rng: random.Random, tag: str) -> Content:
    """Draw a content of which no fact is held out."""
    while any(map(is_held_out, (content := sample_content(rng, tag)).facts)):
        pass
    return content


def sample_content(rng: random.Random, tag: str) -> Content:
    """Draw any content of a task, or of the free mixture of counts, colours and relations."""
    one, two = rng.sample(_NAMES, 2)
    match tag:
        case "single_object":
            return Content(tag, (Group(one),))
        case "two_object":
            return Content(tag, (Group(one), Group(two)))
        case "counting":
            return Content(tag, (Group(one, rng.randint(2, 4)),))
        case "colors":
            return Content(tag, (Group(one, color=rng.choice(_COLORS)),))
        case "position":
            return Content(tag, (Group(one), Group(two)), rng.choice(RELATIONS))
        case "color_attr":
            here, there = rng.sample(_COLORS, 2)
            return Content(tag, (Group(one, color=here), Group(two, color=there)))
        case "mixture":
            return _sample_mixture(rng, one, two)
    raise ValueError(f"tag {tag!r} is none of {', '.join(TAGS)}")


def _sample_mixture(rng: random.Random, one: str, two: str) -> Content:
    """A counted coloured group (1 in 4), two groups in a relation (2 in 4), two groups side by side (1 in 4)."""
    shape = rng.randrange(4)
    if shape == 0:
        return Content(MIXTURE, (Group(one, rng.randint(2, 4), rng.choice(_COLORS)),))
    colors = [rng.choice(_COLORS) if rng.random() < 0.6 else None for _ in range(2)]
    if shape < 3:  # a column or a row holds two
        counts = (rng.randint(1, 2), rng.randint(1, 2))
        relation: str | None = rng.choice(RELATIONS)
    else:
        counts = rng.choice(((1, 2), (2, 1), (1, 3), (3, 1), (2, 2)))
        relation = None
    return Content(MIXTURE, (Group(one, counts[0], colors[0]), Group(two, counts[1], colors[1])), relation)


def evaluation_contents(task: str, limit: int = 24) -> list[Content]:
    """The contents that GenEval-emoji asks for, in a fixed order, each fact once.

    For two_object, colors, position and color_attr: exactly one fact is held out, the one the task is about, so a
    position prompt pairs objects that training did pair. single_object and counting have no combination to hold
    out (there are 24 and 72 contents): all of them occur in training.
    """
    return list(_every_evaluation_content(task)[:limit])


@cache
def _every_evaluation_content(task: str) -> tuple[Content, ...]:
    chosen: dict[object, Content] = {}
    fitting = [(key, content) for content in _every_content(task) if (key := _what_is_asked(content)) is not None]
    for key, content in sorted(fitting, key=lambda pair: _rank(repr(pair[1]))):
        chosen.setdefault(key, content)
    return tuple(chosen.values())


def _what_is_asked(content: Content) -> object | None:
    """The one held-out fact of a content, the content itself where it has no facts, None if it does not qualify."""
    held_out = [fact for fact in content.facts if is_held_out(fact)]
    if not content.facts:
        return content
    return held_out[0] if held_out == [content.facts[-1]] else None


def _every_content(task: str) -> Iterator[Content]:
    match task:
        case "single_object":
            return (Content(task, (Group(name),)) for name in _NAMES)
        case "two_object":
            return (Content(task, (Group(one), Group(two))) for one, two in permutations(_NAMES, 2))
        case "counting":
            return (Content(task, (Group(name, count),)) for name, count in product(_NAMES, (2, 3, 4)))
        case "colors":
            return (Content(task, (Group(name, color=color),)) for name, color in product(_NAMES, _COLORS))
        case "position":
            pairs = product(permutations(_NAMES, 2), RELATIONS)
            return (Content(task, (Group(one), Group(two)), relation) for (one, two), relation in pairs)
        case "color_attr":
            attributed = product(combinations(_NAMES, 2), permutations(_COLORS, 2))
            return (
                Content(task, (Group(one, color=here), Group(two, color=there)))
                for (one, two), (here, there) in attributed
            )
    raise ValueError(f"task {task!r} is none of {', '.join(TASKS)}")
