"""When to stop drawing: small rules over the scores so far, in the order of their seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from sana_scale.expected_excess import expected_excess
from sana_scale.whole_numbers import whole_number


@runtime_checkable
class StopRule(Protocol):
    """Says whether the scores so far are enough.

    It is asked after every image in the order of seeds, so a rule that looks at the scores alone stops at the same
    image whatever the batch size and the number of workers. A run directory needs rules that are dataclasses: it
    writes them down.
    """

    def __call__(self, scores: Sequence[float], seconds: float, /) -> bool:
        """Whether to stop, `seconds` after the start of the run (of all its sittings together)."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """Stop at the first image that scores at least `score`; means most with a calibrated probability."""

    score: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.score):
            raise ValueError(f"Threshold's score is {self.score}; it must be a finite number")

    def __call__(self, scores: Sequence[float], seconds: float, /) -> bool:
        """Whether an image is good enough: the newest, or one from before there were enough to keep."""
        return max(scores) >= self.score


@dataclass(frozen=True, slots=True)
class NoGain:
    """Stop when the last `images` images brought nothing better than what was there before them."""

    images: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "images", whole_number("NoGain's images", self.images, least=1))

    def __call__(self, scores: Sequence[float], seconds: float, /) -> bool:
        """Whether the best score is older than the window."""
        before, window = scores[: -self.images], scores[-self.images :]
        return bool(before) and max(window) <= max(before)


@dataclass(frozen=True, slots=True)
class ImprovementBelow:
    """Stop when one more image is expected to raise the best score by less than `cost`, in units of the score.

    The next score is predicted from those so far as a normal variable of unknown mean and variance, which is a
    Student-t variable (Bayesian optimal stopping; Pandora's box with one kind of box). `ceiling` is the highest score
    there is, such as 1 for a probability. Before `at_least` images it never stops, nor while all scores are equal and
    below the ceiling: a spread that has not shown itself yet is not known to be zero.
    """

    cost: float
    ceiling: float = math.inf
    at_least: int = 4

    def __post_init__(self) -> None:
        if math.isnan(self.ceiling):
            raise ValueError("ImprovementBelow's ceiling is nan; it must be a number, or math.inf for none")
        if not 0 < self.cost < math.inf:
            raise ValueError(f"ImprovementBelow's cost is {self.cost}; it must be above 0 and finite")
        # A spread needs three scores.
        object.__setattr__(self, "at_least", whole_number("ImprovementBelow's at_least", self.at_least, least=3))

    def __call__(self, scores: Sequence[float], seconds: float, /) -> bool:
        """Whether the next image is not worth its cost."""
        if len(scores) < self.at_least:
            return False
        if min(scores) == max(scores):
            return scores[0] >= self.ceiling
        gain = expected_excess(scores, max(scores))
        if self.ceiling < math.inf:
            gain -= expected_excess(scores, self.ceiling)
        return gain < self.cost


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """Stop after so many finished images, or so many seconds, whichever is first; pruned images do not count.

    Time is looked at when a batch has been judged, so a run goes over by up to two batches, and where it stops
    depends on the machine.
    """

    images: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.images is None and self.seconds is None:
            raise ValueError("Budget() limits nothing: give images=, seconds= or both")
        if self.images is not None:
            object.__setattr__(self, "images", whole_number("Budget's images", self.images, least=1))
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise ValueError(f"Budget's seconds is {self.seconds}; it must be above 0 and finite")

    def __call__(self, scores: Sequence[float], seconds: float, /) -> bool:
        """Whether one of the two is spent."""
        images_spent = self.images is not None and len(scores) >= self.images
        return images_spent or (self.seconds is not None and seconds >= self.seconds)
