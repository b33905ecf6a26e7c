"""Orders: best first with ties to the lower seed, who still matters among the best, and how two orders agree."""

from bisect import insort
from collections.abc import Iterable, Sequence
from statistics import fmean


class Podium:
    """The seeds of the best `places` scores so far; between equal scores the lower seed wins."""

    def __init__(self, places: int) -> None:
        self.places = places
        self._keys: list[tuple[float, int]] = []

    def enter(self, seed: int, score: float) -> bool:
        """Add a score; returns whether it is among the best now."""
        key = (-score, seed)
        insort(self._keys, key)
        del self._keys[self.places :]
        return key in self._keys

    @property
    def seeds(self) -> list[int]:
        """Best first."""
        return [seed for _, seed in self._keys]

    @property
    def best(self) -> tuple[int, float]:
        """The winner's seed and score."""
        score, seed = self._keys[0]
        return seed, -score

    def copy(self) -> "Podium":
        """Another podium with the same scores on it."""
        other = Podium(self.places)
        other._keys = self._keys.copy()
        return other


def entering(podium: Podium, scored: Iterable[tuple[int, float]]) -> set[int]:
    """The seeds among `scored` (seed, score), in the order of seeds, that reach the podium when it is their turn.

    Whatever prefix of the seeds a stopping rule leaves, its best are among these: so their images, and no others,
    have to be stored.
    """
    trial = podium.copy()
    return {seed for seed, score in scored if trial.enter(seed, score)}


def best_first(scores: Sequence[float]) -> list[int]:
    """The places of `scores` from the highest to the lowest, equal ones in their order."""
    return sorted(range(len(scores)), key=lambda place: -scores[place])


def rank_correlation(left: Sequence[float], right: Sequence[float]) -> float:
    """Spearman's rank correlation, equal values sharing their mean rank; 0 where one side is constant."""
    a, b = mean_ranks(left), mean_ranks(right)
    centre = (len(a) - 1) / 2
    product = sum((x - centre) * (y - centre) for x, y in zip(a, b, strict=True))
    squares = sum((x - centre) ** 2 for x in a) * sum((y - centre) ** 2 for y in b)
    return product / squares**0.5 if squares else 0.0


def mean_ranks(values: Sequence[float]) -> list[float]:
    """The rank of each value from 0 for the lowest; equal values share the mean of theirs."""
    order = sorted(range(len(values)), key=lambda place: values[place])
    ranks = [0.0] * len(values)
    for group in tie_groups([values[place] for place in order]):
        for rank in group:
            ranks[order[rank]] = fmean(group)
    return ranks


def tie_groups(ordered: Sequence[float]) -> list[range]:
    """The runs of equal values in a sorted sequence, as ranges of places."""
    starts = [place for place in range(len(ordered)) if place == 0 or ordered[place] != ordered[place - 1]]
    return [range(start, end) for start, end in zip(starts, [*starts[1:], len(ordered)], strict=True)]
