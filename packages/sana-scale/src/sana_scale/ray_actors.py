"""A pool of samplers and a pool of judges on a Ray cluster; images go from one to the other, records to the driver."""

import logging
import math
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sana_scale.executors import Batch, Make
from sana_scale.halving import draw_batch
from sana_scale.judging import CheckedJudge, judge_batch
from sana_scale.protocols import Judge, PreviewingSampler, Sampler
from sana_scale.ranking import Podium, entering
from sana_scale.search import Search
from sana_scale.shared_dir import check_picklable
from sana_scale.units import Drawn, Judged, Order
from sana_scale.whole_numbers import whole_number
from sana_scale.worker_processes import WorkersKilledError

logger = logging.getLogger(__name__)

# Batches that a sampler is given at once: the one it draws, and the next, so that it never waits for the driver.
AHEAD = 2


@dataclass(frozen=True, slots=True)
class Ray:
    """An executor on Ray: actors that draw, actors that judge, started again when they are killed.

    The run directory is written by the driver alone, so no folder has to be shared. Use it within `ray.init(...)` of
    your own, or it joins the cluster of RAY_ADDRESS, or starts one on this machine for the run.

    Attributes:
        make_sampler, make_judge: called in every actor; functions or classes, of a module that all nodes have.
        samplers, judges: how many of each.
        sampler_gpus, judge_gpus: of each, such as 1, or 0.5 for two that share one. An actor sees no GPU that is not
            asked for here.
        restarts: how often an actor that was killed is started again; Ray does its batch once more.
    """

    make_sampler: Callable[[], Sampler[Any]]
    make_judge: Callable[[], Judge[Any]]
    samplers: int = 1
    judges: int = 1
    sampler_gpus: float = 0.0
    judge_gpus: float = 0.0
    restarts: int = 100

    def __post_init__(self) -> None:
        for name, least in (("samplers", 1), ("judges", 1), ("restarts", 0)):
            object.__setattr__(self, name, whole_number(name, getattr(self, name), least=least))
        for name in ("sampler_gpus", "judge_gpus"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be finite and not negative")
        check_picklable(self.make_sampler, self.make_judge)

    @property
    def brings_its_own(self) -> bool:
        """True: its actors make their own sampler and judge; the driver needs a run directory."""
        return True

    @contextmanager
    def working(self, searches: Sequence[Search[Any]], run_dir: Path | None) -> Iterator[Make]:
        """Within this context the actors are up, or come up as an autoscaling cluster finds the GPUs for them.

        Raises:
            ImportError: Ray is not installed.
            WorkersKilledError: actors were killed more often than `restarts`.
        """
        ray = _ray()
        with _cluster(ray):
            self._check_gpus(ray)
            sampler_actor = self._actor(ray, SamplerActor, self.sampler_gpus)
            judge_actor = self._actor(ray, JudgeActor, self.judge_gpus)
            crew = _Crew(
                ray,
                [sampler_actor.remote(self.make_sampler) for _ in range(self.samplers)],
                [judge_actor.remote(self.make_judge) for _ in range(self.judges)],
            )
            try:
                yield crew.make
            finally:
                for actor in (*crew.samplers, *crew.judges):
                    ray.kill(actor)

    def _actor(self, ray: Any, kind: type, gpus: float) -> Any:
        # No CPUs: with some asked for, an actor that finds none free is never started, and nobody says so.
        options = {"num_cpus": 0, "num_gpus": gpus, "scheduling_strategy": "SPREAD"}
        return ray.remote(max_restarts=self.restarts, max_task_retries=-1, **options)(kind)

    def _check_gpus(self, ray: Any) -> None:
        asked = self.samplers * self.sampler_gpus + self.judges * self.judge_gpus
        there = ray.cluster_resources().get("GPU", 0)
        if asked > there:  # of the nodes that are up: an autoscaling cluster starts others for what is asked
            logger.warning(
                "%d samplers with %g GPUs and %d judges with %g take %g GPUs and the cluster has %g now: unless it "
                "scales up the run waits forever; ask for fewer, or for parts",
                self.samplers, self.sampler_gpus, self.judges, self.judge_gpus, asked, there,
            )  # fmt: skip


class SamplerActor:
    """Draws batches."""

    def __init__(self, make_sampler: Callable[[], Sampler[Any]]) -> None:
        self._sample = make_sampler()

    def draw(self, order: Order, judge: Any) -> Drawn[Any]:
        """Draw a batch; the actor `judge` looks at it half-way, where that is asked for."""
        if order.at and not isinstance(self._sample, PreviewingSampler):
            raise TypeError(f"prune= needs a sampler with a method previewing; {self._sample!r} has none")

        def score(prompt: str, images: Sequence[Any], seeds: Sequence[int]) -> list[float]:
            scores: list[float] = _ray().get(judge.score.remote(prompt, images, seeds))
            return scores

        return draw_batch(self._sample, score, order)


class JudgeActor:
    """Judges batches and previews, and lets only those images pass that may still win."""

    def __init__(self, make_judge: Callable[[], Judge[Any]]) -> None:
        self._judge = CheckedJudge(make_judge())

    def score(self, prompt: str, images: Sequence[Any], seeds: Sequence[int]) -> list[float]:
        """Score previews."""
        return self._judge.patiently(prompt, images, seeds)

    def judge(self, prompt: str, drawn: Drawn[Any], podium: Podium) -> Judged[Any]:
        """Score a batch; `podium` holds the best of some earlier units."""
        try:
            judged = judge_batch(self._judge, prompt, drawn)
        except Exception:
            judged = judge_batch(self._judge, prompt, drawn)
        assert judged.images is not None
        may_win = entering(podium, zip(judged.unit.seeds, judged.unit.scores, strict=True))
        return Judged(unit=judged.unit, images={seed: judged.images[seed] for seed in sorted(may_win)})


@dataclass(slots=True)
class _Unit:
    """A batch on its way: drawn by one actor, then judged by another, then stored."""

    search: Search[Any]
    index: int
    sampler: int
    judge: int | None = None
    record: Judged[Any] | None = None


@dataclass(slots=True)
class _Crew:
    """The actors, and what they are at."""

    ray: Any
    samplers: list[Any]
    judges: list[Any]
    under_way: dict[Any, _Unit] = field(default_factory=dict)  # by the reference to what is being made of it

    def make(self, batches: Iterable[Batch]) -> Generator[tuple[Search[Any], Judged[Any]], None, None]:
        """Yield the batches in their order; what is finished early is stored at once and waits for its turn."""
        line: deque[_Unit] = deque()
        for search, index in batches:
            while line and (search.waits(index) or len(self.under_way) >= AHEAD * len(self.samplers)):
                yield from self._advanced(line)
            line.append(self._started(search, index))
        while line:
            yield from self._advanced(line)

    def _advanced(self, line: deque[_Unit]) -> Iterator[tuple[Search[Any], Judged[Any]]]:
        """Wait for one step of any unit, unless the front is finished; yield what is finished there."""
        if line[0].record is None:
            (done, *_), _ = self.ray.wait(list(self.under_way), num_returns=1)
            self._take_step(done)
        while line and (record := line[0].record) is not None:
            yield line.popleft().search, record

    def _started(self, search: Search[Any], index: int) -> _Unit:
        unit = _Unit(search, index, self._least_busy(self.samplers, "sampler"))
        if (recorded := search.store.recorded(index)) is not None:
            unit.record = Judged(unit=recorded)
        else:
            looker = self.judges[self._least_busy(self.judges, "judge")]
            self.under_way[self.samplers[unit.sampler].draw.remote(search.order(index), looker)] = unit
        return unit

    def _take_step(self, done: Any) -> None:
        """Have judged what is drawn, and store what is judged."""
        unit = self.under_way.pop(done)
        if unit.judge is None:
            unit.judge = self._least_busy(self.judges, "judge")
            prompt, podium = unit.search.request.prompt, unit.search.tally.podium.copy()
            self.under_way[self.judges[unit.judge].judge.remote(prompt, done, podium)] = unit
            return
        judged = unit.search.stamped(self._result(done))
        unit.search.put(judged)
        unit.record = Judged(unit=judged.unit)

    def _result(self, reference: Any) -> Judged[Any]:
        """What an actor made, or the error it made instead."""
        died = self.ray.exceptions.RayError
        try:
            judged: Judged[Any] = self.ray.get(reference)
            return judged
        except died as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, Exception) and not isinstance(cause, died):  # the sampler's or the judge's own
                raise cause from error
            raise WorkersKilledError(
                f"an actor is gone for good ({cause or error}): it may need more memory than there is. "
                "The same call goes on"
            ) from error

    def _least_busy(self, actors: Sequence[Any], role: str) -> int:
        load = [0] * len(actors)
        for unit in self.under_way.values():
            if role == "judge" and unit.judge is not None:
                load[unit.judge] += 1
            elif role == "sampler" and unit.judge is None:
                load[unit.sampler] += 1
        return load.index(min(load))


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ImportError("Ray(...) needs ray: pip install 'sana-scale[ray]'") from error
    return ray


@contextmanager
def _cluster(ray: Any) -> Iterator[None]:
    """The cluster that there is, else one for as long as this lasts."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported unless somebody asks for it
    ray.init(log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()
