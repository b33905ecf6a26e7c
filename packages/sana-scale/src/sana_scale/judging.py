"""Calling samplers and judges without believing them: as many answers as asked for, every one a number."""

import math
import threading
from collections.abc import Sequence
from typing import Generic, TypeVar

from sana_scale.protocols import Judge, Sampler
from sana_scale.units import Drawn, Judged, Unit

Image = TypeVar("Image")


class CheckedJudge(Generic[Image]):
    """A judge that is asked one thing at a time, and whose answers are checked; errors say which seeds they mean."""

    def __init__(self, judge: Judge[Image]) -> None:
        self._judge = judge
        self._busy = threading.Lock()  # previews are judged while another thread judges finished images

    def __call__(self, prompt: str, images: Sequence[Image], seeds: Sequence[int]) -> list[float]:
        """One finite score per image.

        Raises:
            ValueError: too few or too many scores, or one that is not a finite number.
        """
        try:
            with self._busy:
                return checked_scores(self._judge(prompt, images), seeds)
        except Exception as error:
            error.add_note(f"while judging the seeds {short(seeds)} of {prompt!r}")
            raise

    def patiently(self, prompt: str, images: Sequence[Image], seeds: Sequence[int]) -> list[float]:
        """The same; a judge that fails is asked once more."""
        try:
            return self(prompt, images, seeds)
        except Exception:
            return self(prompt, images, seeds)


def judge_batch(judge: CheckedJudge[Image], prompt: str, drawn: Drawn[Image]) -> Judged[Image]:
    """Score what was drawn; the unit's time is left to who keeps the clock."""
    scores = tuple(judge(prompt, drawn.images, drawn.seeds))
    unit = Unit(index=drawn.index, seeds=drawn.seeds, scores=scores, looks=drawn.looks)
    return Judged(unit=unit, images=dict(zip(drawn.seeds, drawn.images, strict=True)))


def checked_scores(answer: Sequence[float], seeds: Sequence[int]) -> list[float]:
    """A judge's answer as floats, or ValueError."""
    scores = [float(score) for score in answer]
    if len(scores) != len(seeds):
        raise ValueError(f"the judge gave {len(scores)} scores for {len(seeds)} images: it has to give one each")
    wrong = [f"{score} for seed {seed}" for seed, score in zip(seeds, scores, strict=True) if not math.isfinite(score)]
    if wrong:
        raise ValueError(f"the judge gave {', '.join(wrong)}: scores have to be finite numbers")
    return scores


def checked_images(sample: Sampler[Image], prompt: str, seeds: Sequence[int]) -> list[Image]:
    """A sampler's images, one per seed, or ValueError."""
    images = list(sample(prompt, seeds))
    if len(images) != len(seeds):
        raise ValueError(
            f"the sampler gave {len(images)} images for {len(seeds)} seeds ({short(seeds)}) of {prompt!r}: "
            "it has to give one each"
        )
    return images


def short(seeds: Sequence[int]) -> str:
    """Seeds for a message."""
    return f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 3 else ", ".join(map(str, seeds))
