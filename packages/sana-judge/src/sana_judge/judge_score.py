"""What a judge says of one image, and three ways to put images in order by it (SANA-1.5, inference-time scaling)."""

import math
from dataclasses import dataclass
from typing import Literal, assert_never

Rule = Literal["margin", "paper", "released"]

# Larger than any logit, and small enough that logits 1e-9 apart stay apart.
_ABOVE_ALL_LOGITS = 1e6


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The judge's answer to "does the image show the prompt?", from the first word it would say.

    Attributes:
        logit_yes, logit_no: Logits of the two words, float32.
        log_z: Log of the sum of exp over the whole vocabulary: logit_yes - log_z is the log-probability of yes.
        says_yes: Whether yes is the likeliest of all words.
        tiles: Tiles the judge saw of the image, the thumbnail included.
    """

    logit_yes: float
    logit_no: float
    log_z: float
    says_yes: bool
    tiles: int

    @property
    def margin(self) -> float:
        """How much yes is preferred to no, in logits."""
        return self.logit_yes - self.logit_no


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeScore(Answer):
    """An answer and what it is worth.

    Attributes:
        p_yes: Probability of yes against no, calibrated where the checkpoint has a calibration.
    """

    p_yes: float

    def value(self, rule: Rule = "margin") -> float:
        """Returns the number that puts images in order; higher is better.

        "margin" is p_yes. The other two rank as the paper's pairwise tournament would: images answered yes before
        images answered no, the former by falling, the latter by rising confidence in that answer. "paper" measures
        confidence by the probability of the answer, "released" by its raw logit.
        """
        match rule:
            case "margin":
                return self.p_yes
            case "paper":
                return math.exp(self.logit_yes - self.log_z) if self.says_yes else -math.exp(self.logit_no - self.log_z)
            case "released":
                return _ABOVE_ALL_LOGITS + self.logit_yes if self.says_yes else -self.logit_no
        assert_never(rule)


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """Platt's: p = sigmoid(scale * margin + offset). It changes probabilities, never the order."""

    scale: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        if not (0 < self.scale < math.inf and math.isfinite(self.offset)):
            raise ValueError(f"scale is {self.scale} and offset {self.offset}; both must be finite, scale above 0")

    def __call__(self, margin: float) -> float:
        """Returns the probability of yes."""
        x = self.scale * margin + self.offset
        # exp of a positive number could overflow.
        return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
