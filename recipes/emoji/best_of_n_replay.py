"""Ways to spend fewer images, played on recorded scores by the real `best_of_n`: every way sees the same images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from recipes.emoji.best_of_n_records import Record
from sana_scale import BestOfN, Halving, ImprovementBelow, Local, NoGain, Threshold, best_of_n

Look = tuple[int, int | None]
"""A recorded image: its seed, and which look at it this is, None for the finished image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Strategy:
    """Arguments of `best_of_n` under a name."""

    name: str
    n: int = 64
    batch_size: int = 8
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Flops:
    """What an image takes: denoised to the end, decoded once, judged once; 2 for a multiply-add."""

    denoise: float
    decode: float
    judge: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Means over prompts and windows of seeds: correct winners (by task too), finished images, FLOPs."""

    name: str
    n: int
    score: float
    images: float
    flops: float
    tasks: dict[str, float]


def strategies(n: int, *, calibrated: float = 0.95) -> list[Strategy]:
    """Plain best-of-`n` first, then the ways to do with less."""
    early, late = Halving(at=(0.25,)), Halving(at=(0.25, 0.5))
    ways: list[tuple[str, int, dict[str, Any]]] = [
        (f"best of {n}", 8, {}),
        (f"stop at {calibrated}", 4, {"stop": Threshold(calibrated)}),
        ("stop at 0.8", 4, {"stop": Threshold(0.8)}),
        ("stop after 16 without gain", 4, {"stop": NoGain(16)}),
        ("stop below 0.002 expected gain", 4, {"stop": ImprovementBelow(0.002, ceiling=1.0, at_least=8)}),
        ("halve at 25%", 8, {"prune": early}),
        ("halve at 25% and 50%", 8, {"prune": late}),
        (f"halve at 25% and 50%, stop at {calibrated}", 8, {"prune": late, "stop": Threshold(calibrated)}),
    ]
    return [Strategy(name=name, n=n, batch_size=size, options=options) for name, size, options in ways]


def replay(records: Sequence[Record], strategy: Strategy, flops: Flops, *, looks: Sequence[float]) -> Outcome:
    """Run a strategy on every prompt, and on every window of its n seeds that was recorded."""
    correct: dict[str, list[float]] = {}
    images, spent = [], []
    for record in records:
        for first in range(0, len(record.scores) - strategy.n + 1, strategy.n):
            recorded = Recorded(record, looks)
            result: BestOfN[Look] = best_of_n(
                recorded,
                recorded.judge,
                record.prompt,
                n=strategy.n,
                seed=first,
                batch_size=strategy.batch_size,
                executor=Local(overlap=False),
                **strategy.options,
            )
            correct.setdefault(record.task, []).append(float(record.correct[result.best.seed]))
            images.append(result.generated)
            spent.append(result.cost * flops.denoise + recorded.judged * (flops.decode + flops.judge))
    tasks = {task: fmean(values) for task, values in correct.items()}
    return Outcome(
        name=strategy.name,
        n=strategy.n,
        score=fmean(tasks.values()),
        images=fmean(images),
        flops=fmean(spent),
        tasks=tasks,
    )


class Recorded:
    """A record as a sampler of looks and their judge; `judged` counts what was decoded and judged."""

    def __init__(self, record: Record, looks: Sequence[float]) -> None:
        self._record = record
        self._looks = list(looks)
        self.judged = 0

    def __call__(self, prompt: str, seeds: Sequence[int]) -> list[Look]:
        """The finished images."""
        return [(seed, None) for seed in seeds]

    def previewing(
        self,
        prompt: str,
        seeds: Sequence[int],
        *,
        at: Sequence[float],
        keep: Callable[[Sequence[Look]], Sequence[int]],
    ) -> list[tuple[int, Look]]:
        """The recorded looks, and the finished images of those that are kept."""
        for fraction in at:
            look = self._looks.index(fraction)
            seeds = [seeds[place] for place in keep([(seed, look) for seed in seeds])]
        return [(seed, (seed, None)) for seed in seeds]

    def judge(self, prompt: str, images: Sequence[Look]) -> list[float]:
        """The recorded scores."""
        self.judged += len(images)
        record = self._record
        return [record.scores[seed] if look is None else record.early[look][seed] for seed, look in images]
