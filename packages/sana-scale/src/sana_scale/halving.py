"""Pruning by preview: judge images half-way, finish the better half, after a pilot has shown that this can work."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from sana_scale.judging import checked_images
from sana_scale.protocols import PreviewingSampler, Sampler
from sana_scale.ranking import best_first, rank_correlation
from sana_scale.units import Drawn, Look, Order, Unit
from sana_scale.whole_numbers import whole_number

Image = TypeVar("Image")
Score = Callable[[str, Sequence[Image], Sequence[int]], Sequence[float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Halving:
    """Successive halving: at each fraction in `at` of the steps, go on with the best `keep` of the batch.

    The first `pilot` images are drawn to the end and judged at every look as well. A look whose scores have a rank
    correlation with the final scores below `min_correlation` is left out afterwards; with none left, nothing is pruned.
    Which images race against each other is decided by the batch, so `batch_size` changes the result.
    """

    at: tuple[float, ...] = (0.25,)
    keep: float = 0.5
    pilot: int = 16
    min_correlation: float = 0.4

    def __post_init__(self) -> None:
        object.__setattr__(self, "at", tuple(self.at))
        if not self.at or list(self.at) != sorted(set(self.at)) or not 0 < self.at[0] <= self.at[-1] < 1:
            raise ValueError(
                f"at is {self.at}; it must be rising fractions of the steps between 0 and 1, such as (0.25, 0.5)"
            )
        if not 0 < self.keep < 1:
            raise ValueError(f"keep is {self.keep}; it must be the fraction of images to go on with, between 0 and 1")
        # Fewer than 4 images show no correlation.
        object.__setattr__(self, "pilot", whole_number("pilot", self.pilot, least=4))
        if not -1 <= self.min_correlation <= 1:
            raise ValueError(f"min_correlation is {self.min_correlation}; it must be a correlation, -1 to 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Pilot:
    """What the pilot found: per look of the schedule, the rank correlation of early and final scores."""

    at: tuple[float, ...]
    correlations: tuple[float, ...]
    used: tuple[float, ...]


def read_pilot(units: Sequence[Unit], halving: Halving) -> Pilot:
    """Compare the early scores of the pilot's units with their final ones."""
    final = [score for unit in units for score in unit.scores]
    early = [[score for unit in units for score in unit.looks[look].scores] for look in range(len(halving.at))]
    correlations = tuple(rank_correlation(scores, final) for scores in early)
    pairs = zip(halving.at, correlations, strict=True)
    return Pilot(
        at=halving.at, correlations=correlations, used=tuple(at for at, r in pairs if r >= halving.min_correlation)
    )


def survivors(images: int, keep: float) -> int:
    """How many of so many images go on after a look."""
    # 1e-9: a tenth of ten is one, also where 0.1 * 10 comes out above it.
    return max(1, math.ceil(keep * images - 1e-9))


def race(images: int, at: Sequence[float], keep: float) -> tuple[int, float]:
    """How many images of a batch are left after its looks, and what it costs, in whole images."""
    cost = 0.0
    for look in at:
        left = survivors(images, keep)
        cost += look * (images - left)
        images = left
    return images, cost + images


def draw_batch(sample: Sampler[Image], score: Score[Image], order: Order) -> Drawn[Image]:
    """Draw what `order` says; `score` looks at images half-way, where it asks for that."""
    if not order.at:
        images = checked_images(sample, order.prompt, order.seeds)
        return Drawn(index=order.index, seeds=order.seeds, images=images)
    assert isinstance(sample, PreviewingSampler)
    finished, looks = draw_with_looks(sample, score, order.prompt, order.seeds, at=order.at, keep=order.keep)
    seeds, images = tuple(seed for seed, _ in finished), [image for _, image in finished]
    return Drawn(index=order.index, seeds=seeds, images=images, looks=looks)


def draw_with_looks(
    sample: PreviewingSampler[Image], score: Score[Image], prompt: str, seeds: Sequence[int], *, at: Sequence[float],
    keep: float,
) -> tuple[list[tuple[int, Image]], tuple[Look, ...]]:  # fmt: skip
    """Draw `seeds`, after each fraction in `at` going on with the best `keep` of those that are left.

    Returns (seed, image) of the finished ones in the order of seeds, and what was seen on the way.

    Raises:
        ValueError: the sampler did not look as often as asked, or did not finish exactly what was kept.
    """
    racing, looks = list(seeds), list[Look]()

    def keep_best(images: Sequence[Image]) -> list[int]:
        nonlocal racing
        if len(looks) == len(at) or len(images) != len(racing):
            raise ValueError(
                f"previewing showed {len(images)} images at look {len(looks) + 1}; "
                f"asked for were {len(racing)} images at {len(at)} looks: it calls keep once per fraction in at"
            )
        scores = score(prompt, images, racing)
        looks.append(Look(at=at[len(looks)], seeds=tuple(racing), scores=tuple(scores)))
        chosen = sorted(best_first(scores)[: survivors(len(racing), keep)])
        racing = [racing[place] for place in chosen]
        return chosen

    finished = sorted(sample.previewing(prompt, seeds, at=at, keep=keep_best), key=lambda pair: pair[0])
    if len(looks) != len(at) or [seed for seed, _ in finished] != racing:
        raise ValueError(
            f"previewing looked {len(looks)} times and finished the seeds {[seed for seed, _ in finished]}; "
            f"it has to look {len(at)} times and to finish what keep chose last, {racing}"
        )
    return finished, tuple(looks)
