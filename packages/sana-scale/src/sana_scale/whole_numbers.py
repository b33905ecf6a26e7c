"""Counts that callers give: whole numbers of any type."""

from operator import index
from typing import SupportsIndex


def whole_number(name: str, value: SupportsIndex, *, least: int) -> int:
    """A whole number of any type, such as NumPy's, as an int.

    Raises:
        ValueError: it is not a whole number, or below `least`.
    """
    if not isinstance(value, SupportsIndex) or index(value) < least:
        raise ValueError(f"{name} is {value!r}; it must be a whole number of at least {least}")
    return index(value)
