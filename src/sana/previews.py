"""Pictures half-way: what a denoising loop will come to, shown in time to give up on some (SANA-1.5)."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from sana.pixels import resize_and_crop, to_pil
from sana.prompts import pair
from sana_dit import Captions, GuidedVelocity
from sana_dit.sampling import Step

if TYPE_CHECKING:
    from sana.pipeline import SanaPipeline

Keep = Callable[[Sequence[Image.Image]], Sequence[int]]


class Race:
    """A denoising loop in which some samples are given up: the transformer runs for the others only.

    The sampler sees all samples to the end. Those that are out get a velocity of zero, which costs nothing.

    Args:
        pipeline: draws.
        captions, negative: of the one prompt, as `SanaPipeline.encode` gives them.
        samples: how many start.
        guidance_scale: as in a call.
        batch_size: how many samples at most the transformer takes, and the autoencoder decodes, at once.
    """

    def __init__(
        self,
        pipeline: "SanaPipeline",
        captions: Captions,
        negative: Captions | None,
        *,
        samples: int,
        guidance_scale: float,
        batch_size: int,
    ) -> None:
        self.racing = list(range(samples))
        self._pipeline = pipeline
        self._captions, self._negative = captions, negative
        self._guidance_scale = guidance_scale
        self._batch_size = batch_size
        self._velocities: dict[int, GuidedVelocity] = {}

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Velocity of latents (B, C, h, w) at a timestep that all share (B,), zero for samples that are out."""
        return self.scheduled(t[:1])(x, 0)

    def scheduled(self, timesteps: Tensor) -> Step:
        """The same at a sampler's timesteps (steps,), which are read at once, as in a call of the pipeline."""
        steps: dict[int, Step] = {}

        def step(x: Tensor, number: int) -> Tensor:
            v = torch.zeros_like(x)
            for rows in self._batches():
                count = len(rows)
                if count not in steps:
                    steps[count] = self._guided(count).scheduled(timesteps)
                v[rows] = steps[count](x[rows], number)
            return v

        return step

    def pictures(self, latents: Tensor, wanted: tuple[int, int]) -> list[Image.Image]:
        """What the samples still in the race look like, out of latents (B, C, h, w) of all, at `wanted` pixels."""
        decoded = (self._pipeline.decode(latents[rows]) for rows in self._batches())
        return [picture for images in decoded for picture in to_pil(resize_and_crop(images, *wanted))]

    def _batches(self) -> list[list[int]]:
        size = self._batch_size
        return [self.racing[start : start + size] for start in range(0, len(self.racing), size)]

    def _guided(self, count: int) -> GuidedVelocity:
        """The velocity of so many samples; kept, so that the caption is read once for each size of a batch."""
        if count not in self._velocities:
            embeddings, mask = self._captions
            captions = Captions(embeddings.expand(count, -1, -1), mask.expand(count, -1))
            self._velocities[count] = self._pipeline.velocity(
                captions, self._negative, guidance_scale=self._guidance_scale
            )
        return self._velocities[count]


def draw_with_previews(
    pipeline: "SanaPipeline",
    prompt: str,
    seeds: Sequence[int],
    *,
    at: Sequence[float],
    keep: Keep,
    height: int | None = None,
    width: int | None = None,
    steps: int | None = None,
    guidance_scale: float | None = None,
    negative_prompt: str = "",
    binning: bool = True,
    batch_size: int = 8,
) -> list[tuple[int, Image.Image]]:
    """What `SanaPipeline.previewing` does."""
    _, seeds = pair(prompt, seeds)
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
    steps, scale = pipeline.settings(steps, guidance_scale)
    looks = look_steps(at, steps)
    drawn, wanted = pipeline.sizes(height, width, binning=binning)
    captions, negative = pipeline.encode([prompt], negative_prompt=negative_prompt, guidance_scale=scale)
    race = Race(pipeline, captions, negative, samples=len(seeds), guidance_scale=scale, batch_size=batch_size)

    def look(step: int, x0: Tensor) -> None:
        if step in looks:
            chosen = keep(race.pictures(x0, wanted))
            race.racing = [race.racing[place] for place in checked_places(chosen, len(race.racing))]

    latents = pipeline.follow(race, seeds, size=drawn, steps=steps, on_step=look)
    pictures = race.pictures(latents, wanted)
    return [(seeds[place], picture) for place, picture in zip(race.racing, pictures, strict=True)]


def look_steps(at: Sequence[float], steps: int) -> list[int]:
    """The index of the step after which each look is taken: the first with at least that fraction of them done.

    Raises:
        ValueError: there are too few steps to look between them.
    """
    # 1e-9: a tenth of ten steps is one, also where 0.1 * 10 comes out above it.
    looks = [math.ceil(fraction * steps - 1e-9) - 1 for fraction in at]
    if looks and not (looks[0] >= 0 and all(a < b for a, b in pairwise([*looks, steps - 1]))):
        raise ValueError(
            f"at={tuple(at)} of {steps} steps are the steps {[look + 1 for look in looks]}; looks must be at different "
            "steps before the last; take more steps, or look less often"
        )
    return looks


def checked_places(chosen: Sequence[int], count: int) -> list[int]:
    """The places that go on, ascending.

    Raises:
        ValueError: there is no such place, or one is named twice, or none.
    """
    places = sorted(chosen)
    if not places or len(set(places)) < len(places) or not 0 <= places[0] <= places[-1] < count:
        raise ValueError(
            f"keep chose {list(chosen)} of {count} images; it must choose at least one, each once, by place from 0"
        )
    return places
