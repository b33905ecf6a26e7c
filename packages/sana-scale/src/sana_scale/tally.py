"""The state of a run as a pure function of its records in order: scores, the best, the pilot, the moment to stop."""

from typing import Any

from sana_scale.halving import Pilot, read_pilot
from sana_scale.ranking import Podium
from sana_scale.request import Request
from sana_scale.units import Unit


class Tally:
    """Adds up units in the order of their seeds. The same records give the same state, whoever made them and when."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.podium = Podium(request.keep)
        self.seeds: list[int] = []
        self.scores: list[float] = []
        self.units: list[Unit] = []
        self.stopped: str | None = None
        self.pilot: Pilot | None = None

    @property
    def seconds(self) -> float:
        """The run's age at its last record."""
        return self.units[-1].seconds if self.units else 0.0

    @property
    def drawn(self) -> int:
        """Images drawn to the end, with those of the last batch past the stop."""
        return sum(len(unit.seeds) for unit in self.units)

    @property
    def full(self) -> bool:
        """Whether there is nothing left to add."""
        return self.stopped is not None or len(self.units) == self.request.units

    def add(self, unit: Unit) -> None:
        """Take in the next unit, up to the image at which a rule stops the run."""
        assert unit.index == len(self.units)
        assert self.stopped is None
        before = self.seconds
        self.units.append(unit)
        for place, (seed, score) in enumerate(zip(unit.seeds, unit.scores, strict=True)):
            self.seeds.append(seed)
            self.scores.append(score)
            self.podium.enter(seed, score)
            # The clock was read once per batch: a time budget ends with the batch and throws none of it away.
            self._ask_rules(unit.seconds if place == len(unit.seeds) - 1 else before)
            if self.stopped:
                return
        if self.request.prune and len(self.units) == self.request.pilot_units:
            self.pilot = read_pilot(self.units, self.request.prune)

    def _ask_rules(self, seconds: float) -> None:
        if len(self.scores) < self.request.keep:
            return
        for rule in self.request.stop:
            if rule(self.scores, seconds):
                self.stopped = repr(rule)
                return

    def end(self, reason: str) -> None:
        """Take no more units, for the reason given, unless it is full already."""
        if not self.full:
            self.stopped = reason

    def looks(self, index: int) -> tuple[tuple[float, ...], float]:
        """Where to look at a unit's images half-way, and the fraction to go on with."""
        halving = self.request.prune
        if halving is None:
            return (), 1.0
        if index < self.request.pilot_units:
            return halving.at, 1.0
        assert self.pilot is not None, "the pilot is read before anything is pruned"
        return self.pilot.used, halving.keep

    def summary(self, wasted: int) -> dict[str, Any]:
        """The outcome as a JSON object, without images; `wasted` is how many were drawn in batches past the last."""
        ranked = sorted(zip(self.seeds, self.scores, strict=True), key=lambda pair: (-pair[1], pair[0]))
        pilot = self.pilot and {"correlations": self.pilot.correlations, "used": self.pilot.used, "at": self.pilot.at}
        return {
            "prompt": self.request.prompt,
            "generated": self.drawn,
            "wasted": wasted,
            "stopped": self.stopped,
            "pruned": [seed for unit in self.units for seed in unit.pruned],
            "pilot": pilot,
            "cost": sum(unit.cost for unit in self.units),
            "candidates": [{"seed": seed, "score": score} for seed, score in ranked],
        }
