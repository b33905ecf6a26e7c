"""Names of parameters before and after blocks are dropped and new ones come between."""

from collections.abc import Iterable

from sana_train.growth.arrangement import Sources, first_places


def renumbered(names: Iterable[str], blocks: str, *, depth: int, sources: Sources) -> dict[str, str]:
    """The new name of each name that stays: "blocks.1.weight" is "blocks.3.weight" where two new ones are before it.

    Raises:
        ValueError: a name has a block beyond `depth`.
    """
    places = dict(enumerate(first_places(sources)))
    result = {}
    for name in names:
        index, dot, rest = name.removeprefix(f"{blocks}.").partition(".")
        if not name.startswith(f"{blocks}.") or not index.isdecimal():
            result[name] = name
        elif int(index) >= depth:
            raise ValueError(f"{name} is of block {index}; the plan is for a model of {depth} blocks")
        elif int(index) in places:
            result[name] = f"{blocks}.{places[int(index)]}{dot}{rest}"
    return result
