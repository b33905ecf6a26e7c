"""One run of best-of-N in steps: draw a batch, judge it, take it in; where these happen is the executor's business."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Generic, Protocol, TypeVar

from sana_scale.halving import Pilot, draw_batch, race
from sana_scale.judging import CheckedJudge, judge_batch
from sana_scale.protocols import Judge, PreviewingSampler, Sampler
from sana_scale.ranking import entering
from sana_scale.request import Request
from sana_scale.result import BestOfN, Candidate, Progress
from sana_scale.tally import Tally
from sana_scale.units import Drawn, Judged, Order, Unit

Image = TypeVar("Image")


class Store(Protocol[Image]):
    """Where a run keeps its records and images: `Memory` or `RunDirectory`."""

    def recorded(self, index: int) -> Unit | None:
        """The record of a unit, None while there is none."""

    def put(self, unit: Unit, images: Mapping[int, Image]) -> None:
        """Add a unit with those of its images that may still win."""

    def retain(self, seeds: Sequence[int]) -> None:
        """Images of other seeds are not needed any more."""

    def outcome(self) -> dict[str, Any] | None:
        """The result of a finished run, None before."""

    def finish(self, outcome: Mapping[str, Any]) -> None:
        """Keep the result."""

    def sweep(self) -> None:
        """Remove what a finished run does not need."""

    def kept(self) -> dict[int, Image]:
        """The kept images of a finished run by their seeds."""


class Search(Generic[Image]):
    """A run that is going on. Recorded units are taken from the store, and neither drawn nor judged again."""

    def __init__(
        self, request: Request, store: Store[Image], sample: Sampler[Image] | None, judge: Judge[Image] | None
    ) -> None:
        if request.prune and sample is not None and not isinstance(sample, PreviewingSampler):
            raise TypeError(f"prune= needs a sampler with a method previewing; {sample!r} has none")
        self.request = request
        self.store = store
        self.tally = Tally(request)
        self._sample = sample
        self._judge = None if judge is None else CheckedJudge(judge)
        self._waiting: dict[int, int] = {}  # images drawn here of units that are not stored yet
        self._started = time.monotonic()

    def resume(self) -> None:
        """Take in the units that are recorded already, up to the first that is not."""
        while not self.tally.full and (unit := self.store.recorded(len(self.tally.units))):
            self.take_in(Judged(unit=unit))

    @property
    def pending(self) -> range:
        """The units that are not taken in."""
        return range(0) if self.tally.full else range(len(self.tally.units), self.request.units)

    def waits(self, index: int) -> bool:
        """Whether a unit cannot be drawn before those before it are taken in: pruning is decided by the pilot."""
        return self.request.prune is not None and index >= self.request.pilot_units and self.tally.pilot is None

    def order(self, index: int) -> Order:
        """What is to be drawn as a unit."""
        at, keep = self.tally.looks(index)
        seeds = tuple(self.request.seeds(index))
        return Order(index=index, prompt=self.request.prompt, seeds=seeds, at=at, keep=keep)

    def cost(self, index: int) -> float:
        """The cost of a unit, in whole images."""
        return race(len(self.request.seeds(index)), *self.tally.looks(index))[1]

    def draw(self, index: int) -> Drawn[Image] | Judged[Image]:
        """Draw a unit, half-way pruned if so asked."""
        if unit := self.store.recorded(index):
            return Judged(unit=unit)
        assert self._sample is not None
        assert self._judge is not None
        drawn = draw_batch(self._sample, self._judge.patiently, self.order(index))
        self._waiting[index] = len(drawn.seeds)
        return drawn

    def judge(self, drawn: Drawn[Image] | Judged[Image]) -> Judged[Image]:
        """Score a unit's images."""
        if isinstance(drawn, Judged):
            return drawn
        assert self._judge is not None
        return self.stamped(judge_batch(self._judge, self.request.prompt, drawn))

    def stamped(self, judged: Judged[Image]) -> Judged[Image]:
        """The same unit with the seconds since the run began, which a worker that judged it may not know."""
        return replace(judged, unit=replace(judged.unit, seconds=time.monotonic() - self._started))

    def take_in(self, judged: Judged[Image]) -> None:
        """Store a unit and count it; units come in their order."""
        self.put(judged)
        self._started = min(self._started, time.monotonic() - judged.unit.seconds)  # after a kill the clock goes on
        self.tally.add(judged.unit)
        self.store.retain(self.tally.podium.seeds)

    def put(self, judged: Judged[Image]) -> None:
        """Store a unit, with those of its images that may still win, unless it comes from the store."""
        unit = judged.unit
        if judged.images is not None:
            may_win = entering(self.tally.podium, zip(unit.seeds, unit.scores, strict=True))
            self.store.put(unit, {seed: judged.images[seed] for seed in unit.seeds if seed in may_win})
            self._waiting.pop(unit.index, None)

    def progress(self) -> Progress:
        """How far it is."""
        seed, score = self.tally.podium.best
        drawn = self.tally.drawn + sum(self._waiting.values())
        return Progress(
            prompt=self.request.prompt,
            judged=len(self.tally.scores),
            generated=drawn,
            n=self.request.n,
            best_seed=seed,
            best_score=score,
        )

    def result(self) -> BestOfN[Image]:
        """The outcome, which the store then keeps."""
        if self.store.outcome() is None:
            past_the_stop = map(self.store.recorded, range(len(self.tally.units), self.request.units))
            wasted = sum(self._waiting.values()) + sum(len(unit.seeds) for unit in past_the_stop if unit)
            self.store.finish(self.tally.summary(wasted))
        self.store.sweep()  # of a run that was finished before, too: it may have been killed right here
        outcome, images = self.store.outcome(), self.store.kept()
        assert outcome is not None
        ranked = ((candidate["seed"], candidate["score"]) for candidate in outcome["candidates"])
        pilot = outcome["pilot"]
        return BestOfN(
            prompt=outcome["prompt"],
            candidates=tuple(Candidate(images.get(seed), seed, score) for seed, score in ranked),
            generated=outcome["generated"],
            stopped=outcome["stopped"],
            pruned=tuple(outcome["pruned"]),
            pilot=pilot and Pilot(**{name: tuple(values) for name, values in pilot.items()}),
            cost=outcome["cost"],
            wasted=outcome.get("wasted", 0),
        )
