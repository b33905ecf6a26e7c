"""Prompts that a right picture just misses: another count, swapped colours, the opposite relation."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from sana_judge.geneval.rules import COLORS

Metadata = dict[str, Any]

_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
_NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine", 10: "ten"}
_IRREGULAR = {
    "person": "people",
    "knife": "knives",
    "mouse": "mice",
    "sheep": "sheep",
    "scissors": "scissors",
    "skis": "skis",
}


def geneval_prompt(metadata: Mapping[str, Any]) -> str:
    """GenEval's sentences, "a photo of two red apples left of a cat", with the plurals of English."""
    phrases = [_phrase(item) for item in metadata["include"]]
    for place, item in enumerate(metadata["include"]):
        if "position" in item:
            relation, target = item["position"]
            return f"a photo of {phrases[place]} {relation} {phrases[target]}"
    return "a photo of " + " and ".join(phrases)


def hard_negatives(
    metadata: Mapping[str, Any],
    *,
    say: Callable[[Mapping[str, Any]], str] = geneval_prompt,
    colors: Sequence[str] = COLORS,
) -> list[Metadata]:
    """Metadata of prompts that are wrong, by GenEval's rules, for every picture that is right for `metadata`.

    One more and one fewer of a class, where `exclude` bounds its count (without, more is right too); two colours
    swapped, or a single one replaced by each other of `colors`; a relation turned round.

    Args:
        metadata: a line of GenEval's evaluation_metadata.jsonl.
        say: words the prompt of the result.
        colors: what a single colour may become.
    """
    changed = [*_other_counts(metadata), *_other_colors(metadata, colors), *_other_relations(metadata)]
    return [{**fields, "prompt": say(fields)} for fields in changed]


def _other_counts(metadata: Mapping[str, Any]) -> Iterator[Metadata]:
    exclude = metadata.get("exclude", [])
    for place, item in enumerate(metadata["include"]):
        bounds = [bound for bound in exclude if bound["class"] == item["class"]]
        for count in (item["count"] - 1, item["count"] + 1):
            if count >= 1 and any(bound["count"] == item["count"] + 1 for bound in bounds):
                bounded = [{**b, "count": count + 1} if b["class"] == item["class"] else b for b in exclude]
                yield _with(metadata, place, count=count) | {"exclude": bounded}


def _other_colors(metadata: Mapping[str, Any], colors: Sequence[str]) -> Iterator[Metadata]:
    painted = [place for place, item in enumerate(metadata["include"]) if "color" in item]
    own = [metadata["include"][place]["color"] for place in painted]
    if len(painted) == 1:
        yield from (_with(metadata, painted[0], color=color) for color in colors if color != own[0])
    elif len(painted) == 2 and own[0] != own[1]:
        yield _with(_with(metadata, painted[0], color=own[1]), painted[1], color=own[0])


def _other_relations(metadata: Mapping[str, Any]) -> Iterator[Metadata]:
    for place, item in enumerate(metadata["include"]):
        if "position" in item:
            relation, target = item["position"]
            yield _with(metadata, place, position=[_OPPOSITE[relation], target])


def _with(metadata: Mapping[str, Any], place: int, **fields: Any) -> Metadata:
    include = [{**item, **fields} if number == place else item for number, item in enumerate(metadata["include"])]
    return {**metadata, "include": include}


def _phrase(item: Mapping[str, Any]) -> str:
    count = item["count"]
    words = [item["class"] if count == 1 else _plural(item["class"])]
    if "color" in item:
        words.insert(0, item["color"])
    number = _NUMBERS.get(count, str(count)) if count > 1 else "an" if words[0][0] in "aeiou" else "a"
    return " ".join([number, *words])


def _plural(name: str) -> str:
    *first, last = name.split(" ")
    ending = "es" if last.endswith(("s", "sh", "ch", "x")) else "s"
    return " ".join([*first, _IRREGULAR.get(last, last + ending)])
