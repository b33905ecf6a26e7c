"""Samples that cannot be used: skipped, counted by reason and listed; too many of them stop the run."""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Self

from sana_train.folders import replace_file


class Reason(StrEnum):
    """Why a sample is left out."""

    MISSING = "file missing"
    OUTSIDE = "path leads outside"
    NAME = "name not usable"
    CHANGED = "file changed since it was indexed"
    DUPLICATE = "key taken already"
    NOT_AN_IMAGE = "not an image"
    TRUNCATED = "image damaged or cut short"
    TOO_LARGE = "image too large"
    NO_CAPTION = "no caption"
    NO_SCORE = "caption without a score"
    WRONG_LATENT = "latent of wrong shape"
    NOT_FINITE = "latent not finite"


class BadSampleError(ValueError):
    """One sample cannot be used; the message says what is wrong with it."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class TooManyBadSamplesError(ValueError):
    """More samples were skipped than the run allows; the message counts them by reason and names some.

    Attributes:
        skipped: all of them so far.
    """

    def __init__(self, message: str, skipped: "list[Skipped]") -> None:
        super().__init__(message)
        self.skipped = skipped


@dataclass(frozen=True, slots=True)
class Skipped:
    """A sample that was left out."""

    key: str
    reason: str
    detail: str

    @classmethod
    def of(cls, key: str, error: BadSampleError) -> Self:
        """The sample `key`, left out because of `error`."""
        return cls(key, str(error.reason), error.detail)


def counts_by_reason(skipped: Iterable[Skipped]) -> dict[str, int]:
    """How many samples were skipped for each reason, most frequent first."""
    return dict(Counter(sample.reason for sample in skipped).most_common())


def write_skipped(path: Path, skipped: Iterable[Skipped]) -> None:
    """Write one JSON object per sample that was left out, all of them or none.

    Bytes of a name that are not UTF-8 are written as JSON escapes.
    """
    lines = [json.dumps(dataclasses.asdict(sample), ensure_ascii=False) + "\n" for sample in skipped]
    replace_file(path, "".join(lines).encode(errors="backslashreplace"))


def check_skipped(skipped: list[Skipped], *, total: int, fraction: float) -> None:
    """Raise TooManyBadSamplesError where more than `fraction` of `total` samples were skipped."""
    if len(skipped) <= fraction * total:
        return
    reasons = ", ".join(f"{count} {reason}" for reason, count in counts_by_reason(skipped).items())
    named = "; ".join(f"{sample.key} ({sample.reason}: {sample.detail})" for sample in skipped[:3])
    message = (
        f"{len(skipped)} of {total} samples had to be skipped ({reasons}), and {fraction:.2%} may be; the first: "
        f"{named}. Fix the data, or allow a larger fraction: max_skipped, --max-skipped of sana's commands"
    )
    raise TooManyBadSamplesError(message, skipped)


@contextmanager
def list_skipped_on_error(path: Path) -> Iterator[None]:
    """On TooManyBadSamplesError, write all skipped samples to `path` and name it in the error."""
    try:
        yield
    except TooManyBadSamplesError as error:
        write_skipped(path, error.skipped)
        error.add_note(f"All of them are listed in {path}")
        raise
