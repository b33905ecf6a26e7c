"""Which block of the source each block of a deeper model begins as (SANA-1.5, depth growth, and its alternatives)."""

from typing import Literal, get_args

Init = Literal["partial_preservation", "interleaved", "cyclic", "block_replication"]
Sources = tuple[int | None, ...]

INITS: tuple[Init, ...] = get_args(Init)
IDENTITIES: tuple[Init, ...] = ("partial_preservation", "interleaved")  # their new blocks change nothing at first


def arrangement(init: Init, *, kept: int, depth: int) -> Sources:
    """The source block of each of `depth` blocks, None for a freshly drawn one; the first `kept` ones are used.

    With 3 kept blocks and 8 in all:

    - "partial_preservation": 0 1 2 - - - - -, the paper's choice.
    - "interleaved": 0 0 0 1 1 1 2 2, where copies do nothing at first (LLaMA-Pro, arXiv 2401.02415, section 3).
    - "cyclic": 0 1 2 0 1 2 0 1.
    - "block_replication": 0 0 0 1 1 1 2 2, where copies do what the block does.

    Raises:
        ValueError: there is no such init.
    """
    if init == "partial_preservation":
        return (*range(kept), *[None] * (depth - kept))
    if init == "cyclic":
        return tuple(place % kept for place in range(depth))
    if init in ("interleaved", "block_replication"):
        return tuple(place * kept // depth for place in range(depth))
    raise ValueError(f"init is {init!r}; it must be one of {', '.join(INITS)}")


def first_places(sources: Sources) -> tuple[int, ...]:
    """Where the blocks of the source come to stand, in their order; all other places are new blocks."""
    return tuple(place for place, source in enumerate(sources) if source is not None and source not in sources[:place])


def check_target(depth: int, *, source: int, drop_last: int) -> None:
    """Raise unless a model of `source` blocks can lose its last `drop_last` and be grown to `depth`."""
    for name, value in (("depth", depth), ("drop_last", drop_last)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} is {value!r}; it must be a whole number of blocks")
    if depth <= source:
        raise ValueError(
            f"depth is {depth} and the model has {source} blocks; growth needs more than it has: give at least "
            f"{source + 1}, or prune the model to make it shallower"
        )
    if not 0 <= drop_last < source:
        raise ValueError(
            f"drop_last is {drop_last} and the model has {source} blocks; it must be 0 to {source - 1}, so that at "
            "least one block is preserved"
        )
