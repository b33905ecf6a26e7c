"""Several judges as one: their weighted mean, or the strictest of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from sana_scale.judging import checked_scores
from sana_scale.protocols import Judge

Image = TypeVar("Image")


@dataclass(frozen=True, slots=True)
class Weighted(Generic[Image]):
    """The weighted mean of several judges, whose scores should be on one scale, such as calibrated probabilities."""

    judges: Sequence[Judge[Image]]
    weights: Sequence[float]

    def __post_init__(self) -> None:
        if not self.judges or len(self.judges) != len(self.weights):
            raise ValueError(
                f"{len(self.judges)} judges and {len(self.weights)} weights: it takes one weight per judge"
            )
        if not all(0 < weight < math.inf for weight in self.weights):
            raise ValueError(
                f"weights are {list(self.weights)}; each must be above 0 and finite: leave out a judge "
                "that does not count"
            )

    def __call__(self, prompt: str, images: Sequence[Image], /) -> list[float]:
        """One score per image."""
        answers = ask_all(self.judges, prompt, images)
        # Divided last: judges that all say 1.0 give 1.0, and not 0.9999999999999999.
        return [self._sum(scores) / sum(self.weights) for scores in zip(*answers, strict=True)]

    def _sum(self, scores: Sequence[float]) -> float:
        return sum(score * weight for score, weight in zip(scores, self.weights, strict=True))


@dataclass(frozen=True, slots=True)
class Minimum(Generic[Image]):
    """The lowest score of several judges: an image has to please them all."""

    judges: Sequence[Judge[Image]]

    def __post_init__(self) -> None:
        if not self.judges:
            raise ValueError("there are no judges; Minimum takes at least one")

    def __call__(self, prompt: str, images: Sequence[Image], /) -> list[float]:
        """One score per image."""
        return [min(scores) for scores in zip(*ask_all(self.judges, prompt, images), strict=True)]


def ask_all(judges: Sequence[Judge[Image]], prompt: str, images: Sequence[Image]) -> list[list[float]]:
    """The scores of each judge; an error says which judge it came from."""
    answers = []
    for place, judge in enumerate(judges):
        try:
            answers.append(checked_scores(judge(prompt, images), range(len(images))))
        except Exception as error:
            error.add_note(f"this was judge {place} of {len(judges)}, {judge!r}; seeds are counted from 0 in the batch")
            raise
    return answers
