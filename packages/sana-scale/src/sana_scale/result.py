"""What best-of-N gives back."""

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from sana_scale.halving import Pilot

Image = TypeVar("Image")


@dataclass(frozen=True, slots=True)
class Candidate(Generic[Image]):
    """One image of a run: its seed, from which it can be drawn again, and its score; no image beyond the best."""

    image: Image | None
    seed: int
    score: float


@dataclass(frozen=True, kw_only=True, slots=True)
class BestOfN(Generic[Image]):
    """A finished run. But for `wasted` it does not depend on the executor, nor on the number of workers.

    Attributes:
        candidates: every judged image up to where the run stopped, best first; between equal scores the lower seed.
            The first `keep` have their images.
        generated: how many images were drawn to the end, with those that their last batch has past the stop.
        stopped: the rule that ended the run, None where all images were drawn.
        pruned: the seeds that were given up on half-way.
        pilot: what pruning was decided on, None where nothing was to be pruned or the run ended before.
        cost: denoising spent on `generated` and `pruned`, in whole images.
        wasted: how many images more were drawn ahead, in batches after the last; results are equal whatever it is.
    """

    prompt: str
    candidates: tuple[Candidate[Image], ...]
    generated: int
    stopped: str | None = None
    pruned: tuple[int, ...] = ()
    pilot: Pilot | None = None
    cost: float = 0.0
    wasted: int = field(default=0, compare=False)

    @property
    def best(self) -> Candidate[Image]:
        """The winner."""
        return self.candidates[0]

    @property
    def images(self) -> list[Image]:
        """The kept images, best first."""
        return [candidate.image for candidate in self.candidates if candidate.image is not None]

    @property
    def scores(self) -> list[float]:
        """All scores in the order of seeds."""
        return [candidate.score for candidate in sorted(self.candidates, key=lambda candidate: candidate.seed)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far the run of a prompt is: images judged of the `n` there may be, images drawn, and the best so far."""

    prompt: str
    judged: int
    generated: int
    n: int
    best_seed: int
    best_score: float
