"""Several judges as one: their weighted mean, or the strictest of them."""

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
        if not all(weight > 0 for weight in self.weights):
            raise ValueError(f"weights={list(self.weights)} must all be above 0: leave out a judge that does not count")

    def __call__(self, prompt: str, images: Sequence[Image], /) -> list[float]:
        """One score per image."""
        total = sum(self.weights)
        weighted = [
            [score * weight / total for score in scores]
            for scores, weight in zip(ask_all(self.judges, prompt, images), self.weights, strict=True)
        ]
        return [sum(scores) for scores in zip(*weighted, strict=True)]


@dataclass(frozen=True, slots=True)
class Minimum(Generic[Image]):
    """The lowest score of several judges: an image has to please them all."""

    judges: Sequence[Judge[Image]]

    def __post_init__(self) -> None:
        if not self.judges:
            raise ValueError("Minimum([]) has no judge: it takes at least one")

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
