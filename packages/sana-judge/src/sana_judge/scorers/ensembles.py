"""Several judges as one, by their ranks or by the strictest of them."""

import math
from collections.abc import Callable, Sequence

from sana_judge.image_reading import ImageLike
from sana_judge.judge_call import finite_scores

# What a judge is: a prompt and images to one number each, higher is better.
Judge = Callable[[str, Sequence[ImageLike]], Sequence[float]]


class RankMean:
    """The weighted mean of the ranks that several judges give an image, from 0 (last) to 1 (first).

    Ranks need no common scale: a CLIP score and an ImageReward may be averaged. They compare an image with the others
    of the same call and with nothing else, so all candidates must be judged in one call (`batch_size=n` in a
    best-of-n); equals share the mean of their ranks, and a single image has 0.5.
    """

    def __init__(self, judges: Sequence[Judge], weights: Sequence[float] | None = None):
        """Takes judges and their weights, equal ones if None; ValueError unless they match, finite and above 0."""
        self.judges = _some(judges)
        self.weights = [1.0] * len(judges) if weights is None else list(weights)
        if len(self.weights) != len(judges) or not all(0 < weight < math.inf for weight in self.weights):
            raise ValueError(
                f"{len(judges)} judges with the weights {self.weights}; give one finite weight above 0 per judge"
            )

    def __call__(self, prompt: str, images: Sequence[ImageLike]) -> list[float]:
        """Returns one number per image; raises what the judges raise, saying whose error it was."""
        total = sum(self.weights)
        means = [0.0] * len(images)
        for scores, weight in zip(_ask(self.judges, prompt, images), self.weights, strict=True):
            means = [mean + rank * weight / total for mean, rank in zip(means, relative_ranks(scores), strict=True)]
        return means


class Minimum:
    """The lowest number that several judges give an image: it has to please them all.

    Their numbers must mean the same, such as calibrated probabilities.
    """

    def __init__(self, judges: Sequence[Judge]):
        """Takes at least one judge."""
        self.judges = _some(judges)

    def __call__(self, prompt: str, images: Sequence[ImageLike]) -> list[float]:
        """Returns one number per image; raises what the judges raise, saying whose error it was."""
        return [min(scores) for scores in zip(*_ask(self.judges, prompt, images), strict=True)]


def relative_ranks(scores: Sequence[float]) -> list[float]:
    """Returns for each score the share of the others that it beats, a tie being half a win; alone, 0.5."""
    if len(scores) == 1:
        return [0.5]
    order = sorted(scores)
    first = {score: place for place, score in reversed(list(enumerate(order)))}
    last = {score: place for place, score in enumerate(order)}
    return [(first[score] + last[score]) / 2 / (len(scores) - 1) for score in scores]


def _some(judges: Sequence[Judge]) -> list[Judge]:
    if not judges:
        raise ValueError("there are no judges; it takes at least one")
    return list(judges)


def _ask(judges: Sequence[Judge], prompt: str, images: Sequence[ImageLike]) -> list[list[float]]:
    answers = []
    for place, judge in enumerate(judges):
        try:
            scores = [float(score) for score in judge(prompt, images)]
            if len(scores) != len(images):
                raise ValueError(f"a judge gave {len(scores)} scores for {len(images)} images; it must give one each")
            answers.append(finite_scores(scores, range(len(images))))
        except Exception as error:
            error.add_note(f"It was judges[{place}], {judge!r}.")
            raise
    return answers
