"""What a text encoder's own files do not say of captions, and how sana.json says it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from os import PathLike, fspath
from typing import Any, Self, get_args

from sana_dit.config import Compat

KEY = "captions"
"""Of sana.json."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionFacts:
    """What the text encoder's own files do not say; kept in sana.json under "captions"."""

    compat: Compat = "diffusers"
    chi: bool = True
    max_tokens: int = 300

    def __post_init__(self) -> None:
        if self.compat not in get_args(Compat):
            raise ValueError(f"compat is {self.compat!r}; it must be one of {get_args(Compat)}")
        if not isinstance(self.max_tokens, int) or self.max_tokens < 2:
            raise ValueError(f"max_tokens is {self.max_tokens!r}; it must be at least 2, for BOS and a word")

    @classmethod
    def from_json(cls, facts: Mapping[str, Any], *, where: str | PathLike[str]) -> Self | None:
        """What a sana.json says of captions, if anything; raises ValueError, which calls the file `where`."""
        values = facts.get(KEY)
        if values is None:
            return None
        known = [field.name for field in fields(cls)]
        if not isinstance(values, dict):
            raise ValueError(f"{fspath(where)} has {values!r} under {KEY!r}, not an object of {known}")
        if unknown := sorted(set(values) - set(known)):
            raise ValueError(f"{fspath(where)} has {unknown} under {KEY!r}; known are {known}")
        try:
            return cls(**values)
        except ValueError as error:
            raise ValueError(f"{fspath(where)}: {error}") from error
