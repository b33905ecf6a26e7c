"""Which of an image's captions is trained on: better ones more often (SANA, section 3.1)."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from sana_train.draws import Draws


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionSampler:
    """Draws caption i with probability exp(c_i / tau) / sum_j exp(c_j / tau), c being CLIP scores.

    Scores are 100 times a cosine, so 25 is usual, and with tau = 0.1 the best caption nearly always wins. An infinite
    tau draws all captions alike and needs no scores. A single caption is taken whatever its score.

    Attributes:
        tau: temperature, in points of the score; of "power", the inverse of the exponent.
        threshold: captions that score less are left out, unless all of them do: then the best one is taken.
        mode: "softmax" is the paper's formula. "power" is what NVlabs' training code does: probabilities proportional
            to max(c_i, 0) ** (1 / tau), with a threshold of 25.
    """

    tau: float = 0.1
    threshold: float | None = None
    mode: Literal["softmax", "power"] = "softmax"

    def __post_init__(self) -> None:
        if not self.tau > 0:
            raise ValueError(f"tau is {self.tau}; it must be positive: near 0 takes the best caption, inf any")
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise ValueError(f"threshold is {self.threshold}; it must be a finite score, or None")
        if self.mode not in ("softmax", "power"):
            raise ValueError(f"mode is {self.mode!r}; it must be 'softmax' or 'power'")

    @property
    def needs_scores(self) -> bool:
        """Whether several captions can only be chosen from by their scores."""
        return math.isfinite(self.tau) or self.threshold is not None

    def probabilities(self, scores: Sequence[float]) -> list[float]:
        """The probability of each caption, adding up to 1.

        Raises:
            ValueError: there is no score, or one that is not finite.
        """
        if not scores or not all(math.isfinite(score) for score in scores):
            raise ValueError(f"scores are {list(scores)}; there must be a finite one per caption: score the captions")
        best = max(scores)
        if self.threshold is not None and best < self.threshold:
            return [float(index == scores.index(best)) for index in range(len(scores))]
        weights = [self._weight(score, best) for score in scores]
        total = sum(weights)
        return [weight / total for weight in weights]

    def choose(self, scores: Sequence[float], *, seed: int, epoch: int, key: str) -> int:
        """The caption of sample `key` in an epoch: whichever process asks, however often."""
        if len(scores) == 1:
            return 0
        u = (Draws(seed, epoch, ()).key(f"caption/{key}") >> 10) / 2**53  # [0, 1)
        reached = list(accumulate(self.probabilities(scores)))
        return bisect_right(reached, u * reached[-1])

    def _weight(self, score: float, best: float) -> float:
        """Of the best score 1, so that nothing overflows."""
        if self.threshold is not None and score < self.threshold:
            return 0.0
        if self.mode == "softmax":
            return math.exp((score - best) / self.tau)
        if best <= 0:
            return float(score == best)
        return float((max(score, 0.0) / best) ** (1 / self.tau))
