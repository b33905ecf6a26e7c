"""The two halves of the work on a batch, for whoever has the sampler and whoever has the judge."""

from typing import TypeVar

from sana_scale.halving import Score, draw_with_looks
from sana_scale.judging import CheckedJudge, checked_images
from sana_scale.protocols import PreviewingSampler, Sampler
from sana_scale.units import Drawn, Judged, Order, Unit

Image = TypeVar("Image")


def draw_batch(sample: Sampler[Image], score: Score[Image], order: Order) -> Drawn[Image]:
    """Draw what `order` says; `score` looks at images half-way, where it asks for that."""
    if not order.at:
        images = checked_images(sample, order.prompt, order.seeds)
        return Drawn(index=order.index, seeds=order.seeds, images=images)
    assert isinstance(sample, PreviewingSampler)
    finished, looks = draw_with_looks(sample, score, order.prompt, order.seeds, at=order.at, keep=order.keep)
    seeds, images = tuple(seed for seed, _ in finished), [image for _, image in finished]
    return Drawn(index=order.index, seeds=seeds, images=images, looks=looks)


def judge_batch(judge: CheckedJudge[Image], prompt: str, drawn: Drawn[Image]) -> Judged[Image]:
    """Score what was drawn; the unit's time is left to who keeps the clock."""
    scores = tuple(judge(prompt, drawn.images, drawn.seeds))
    unit = Unit(index=drawn.index, seeds=drawn.seeds, scores=scores, looks=drawn.looks)
    return Judged(unit=unit, images=dict(zip(drawn.seeds, drawn.images, strict=True)))
