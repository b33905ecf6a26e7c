"""Items in lists of one size, as itertools.batched of Python 3.12 gives them in tuples."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of `size`, the last one possibly shorter; taken as they are asked for."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
