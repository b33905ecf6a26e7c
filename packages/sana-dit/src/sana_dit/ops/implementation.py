"""The one switch between implementations of an operation."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

Implementation = Literal["fastest", "reference"]

_selected: Implementation = "fastest"


@contextmanager
def use(implementation: Implementation) -> Iterator[None]:
    """Makes every operation inside the `with` block run as named: "reference" is plain PyTorch everywhere.

    Raises:
        ValueError: The name is not one of "fastest" (the default) and "reference".
    """
    global _selected
    if implementation not in ("fastest", "reference"):
        raise ValueError(f"implementation is {implementation!r}; it must be 'fastest' or 'reference'")
    before, _selected = _selected, implementation
    try:
        yield
    finally:
        _selected = before


def selected() -> Implementation:
    """Returns the implementation in force."""
    return _selected
