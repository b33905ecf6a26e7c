"""Captions of a content in four forms: English, Chinese, the two mixed word by word, and emoji."""

import random

from recipes.emoji.contents import Content, Group
from recipes.emoji.vocabulary import CHINESE_NUMBERS, CHINESE_RELATIONS, COLORS, NUMBERS, THINGS

LANGUAGES = ("english", "chinese", "mixed", "emoji")


def caption(content: Content, language: str, rng: random.Random | None = None) -> str:
    """Say `content` in one of `LANGUAGES`.

    `rng` tosses the coins of "mixed" (which words are Chinese); without it they depend on the content alone.

    english: two red apples left of a cat; chinese: 两个红色的苹果在猫的左边;
    mixed: two 红色 apples left of a 猫; emoji: 🟥🍎🟥🍎 left of 🐈.
    """
    match language:
        case "english":
            return _english(content, [(False, False)] * len(content.groups))
        case "chinese":
            return _chinese(content)
        case "mixed":
            return _english(content, _coins(content, rng or random.Random(repr(content))))
        case "emoji":
            joint = f" {content.relation} " if content.relation else ""
            return joint.join(_emoji_group(group) for group in content.groups)
    raise ValueError(f"language {language!r} is none of {', '.join(LANGUAGES)}")


def _english(content: Content, chinese: list[tuple[bool, bool]]) -> str:
    """An English sentence; `chinese` says for each group whether (its colour, its noun) is a Chinese word."""
    phrases = [_english_group(group, *flags) for group, flags in zip(content.groups, chinese, strict=True)]
    return f" {content.relation or 'and'} ".join(phrases)


def _english_group(group: Group, chinese_color: bool, chinese_noun: bool) -> str:
    thing = THINGS[group.name]
    words = [thing.chinese if chinese_noun else thing.name if group.count == 1 else thing.plural]
    if group.color:
        words.insert(0, COLORS[group.color].chinese if chinese_color else group.color)
    number = NUMBERS.get(group.count) or ("an" if words[0][0] in "aeiou" else "a")
    return " ".join([number, *words])


def _coins(content: Content, rng: random.Random) -> list[tuple[bool, bool]]:
    """Which words are Chinese: fair coins, but one noun at least."""
    coins = [(rng.random() < 0.5, rng.random() < 0.5) for _ in content.groups]
    if not any(noun for _, noun in coins):
        coins[-1] = (coins[-1][0], True)
    return coins


def _chinese(content: Content) -> str:
    first, *rest = content.groups
    if not rest:
        return _chinese_group(first)
    second = rest[0]
    if content.relation is None:
        return f"{_chinese_group(first)}和{_chinese_group(second)}"
    # A single object that the other is placed by takes no number: 在猫的左边.
    place = _chinese_noun(second) if second.count == 1 else _chinese_group(second)
    return f"{_chinese_group(first)}在{place}的{CHINESE_RELATIONS[content.relation]}"


def _chinese_group(group: Group) -> str:
    return CHINESE_NUMBERS[group.count] + THINGS[group.name].classifier + _chinese_noun(group)


def _chinese_noun(group: Group) -> str:
    return (f"{COLORS[group.color].chinese}的" if group.color else "") + THINGS[group.name].chinese


def _emoji_group(group: Group) -> str:
    return ((COLORS[group.color].emoji if group.color else "") + THINGS[group.name].emoji) * group.count
