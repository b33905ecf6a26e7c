"""Names of parameters before and after blocks are removed."""

from collections.abc import Iterable, Sequence


def renumbered(names: Iterable[str], blocks: str, *, depth: int, kept: Sequence[int]) -> dict[str, str]:
    """The new name of each name that stays: "blocks.7.weight" is "blocks.5.weight" where two before it are gone.

    Raises:
        ValueError: a name has a block beyond `depth`.
    """
    places = {block: place for place, block in enumerate(kept)}
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
