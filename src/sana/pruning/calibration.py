"""What calibrates a pruning: pictures that the model draws itself, and how far another model strays from them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from sana.catalog import EMBEDDED
from sana.pipeline import SanaPipeline
from sana_dit import Captions, SanaTransformer, Velocity, flow_sigmas, guided_velocity
from sana_scale import BlockImportance, block_importance

BRANCHES = ("self_attn", "cross_attn", "mix_ffn")


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """What is drawn: a picture of each prompt, from the seeds `seed`, `seed + 1`, ...

    Attributes:
        prompts: diverse ones; SANA-1.5 takes 100.
        seed: of the first prompt's picture.
        steps: of the sampler.
        guidance_scale: 1 or less for no guidance.
    """

    prompts: tuple[str, ...]
    seed: int
    steps: int
    guidance_scale: float

    @property
    def description(self) -> dict[str, object]:
        """What a plan's calibration hash is made of."""
        return {"prompts": list(self.prompts), "seed": self.seed, "steps": self.steps, "scale": self.guidance_scale}


class Sample(NamedTuple):
    """A drawn picture: its prompt, the prompt's captions (1, L, Dc) and latents (1, C, h, w), scaled."""

    prompt: str
    captions: Captions
    latents: Tensor


def calibration_prompts(model: str | Path) -> list[str]:
    """The 100 prompts that come with this package: of the embedded model's own world, or general ones."""
    name = "emoji" if str(model) == EMBEDDED else "general"
    return read_prompts(Path(__file__).parent / "calibration_prompts" / f"{name}.txt")


def read_prompts(path: Path) -> list[str]:
    """The lines of a text file, without empty ones.

    Raises:
        ValueError: there are none, or it is not UTF-8.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8: {error}") from error
    if not any(lines):
        raise ValueError(f"{path} has no prompts: write one per line")
    return [line for line in lines if line]


def draw_samples(pipeline: SanaPipeline, calibration: Calibration, *, progress: bool = False) -> Iterator[Sample]:
    """Draw every prompt as a call would, without decoding."""
    bar = tqdm(calibration.prompts, desc="pictures", unit=" prompts", disable=not progress)
    for index, prompt in enumerate(bar):
        captions, negative = pipeline.encode([prompt], guidance_scale=calibration.guidance_scale)
        size, _ = pipeline.sizes(None, None)
        seeds = [calibration.seed + index]
        latents = pipeline.denoise(
            captions, negative, seeds, size=size, steps=calibration.steps, guidance_scale=calibration.guidance_scale
        )
        yield Sample(prompt, captions, latents)


def measure_importance(
    pipeline: SanaPipeline,
    calibration: Calibration,
    *,
    window: int = 1,
    branches: Sequence[str] = BRANCHES,
    progress: bool = True,
) -> tuple[BlockImportance, list[Sample]]:
    """Importance of blocks, over all time steps and both halves of guidance, and the samples that were drawn for it.

    Args:
        pipeline: draws; its blocks are measured.
        calibration: what to draw.
        window: this many consecutive blocks count as one.
        branches: of a block, to be measured too, each for one more forward pass of every block.
        progress: whether to show a bar.
    """
    samples: list[Sample] = []

    def run() -> Iterator[None]:
        drawn = draw_samples(pipeline, calibration)
        total = len(calibration.prompts)
        for sample in tqdm(drawn, desc="block importance", total=total, unit=" prompts", disable=not progress):
            samples.append(sample)
            yield

    guided = calibration.guidance_scale > 1 and not pipeline.is_sprint
    timesteps = flow_sigmas(calibration.steps, pipeline.facts.flow_shift)[1].tolist()
    importance = block_importance(
        pipeline.transformer.blocks,
        run,
        model=pipeline.transformer,
        time_span=1.0 if pipeline.is_sprint else 1000.0,
        sampler_timesteps=None if pipeline.is_sprint else timesteps,
        branches=branches,
        batch_parts=("unconditional", "conditional") if guided else (),
        window=window,
        calibration=calibration.description,
        progress=False,  # a bar of its own would not know how many prompts there are
    )
    return importance, samples


class _Drawn(NamedTuple):
    """A drawn picture: its captions, and the latents, timestep and velocity of each step."""

    captions: Captions
    negative: Captions | None
    passed: list[tuple[Tensor, Tensor, Tensor]]


class VelocityError:
    """How far a transformer's velocity is from a pipeline's along the pictures that the pipeline draws.

    It is the squared distance of the two guided velocities over the squared norm, a mean over all steps and prompts.
    """

    def __init__(self, pipeline: SanaPipeline, calibration: Calibration, *, progress: bool = True) -> None:
        self._guidance_scale = calibration.guidance_scale
        self._drawn: list[_Drawn] = []
        size, _ = pipeline.sizes(None, None)
        bar = tqdm(calibration.prompts, desc="reference", unit=" prompts", disable=not progress)
        for index, prompt in enumerate(bar):
            captions, negative = pipeline.encode([prompt], guidance_scale=self._guidance_scale)
            self._drawn.append(_Drawn(captions, negative, []))
            velocity = self._noting(pipeline.transformer, self._drawn[-1])
            pipeline.follow(velocity, [calibration.seed + index], size=size, steps=calibration.steps)

    @torch.inference_mode()
    def __call__(self, model: SanaTransformer) -> float:
        """The error of a transformer; 0 for the pipeline's own."""
        distances, norms = list[Tensor](), list[Tensor]()
        for captions, negative, passed in self._drawn:
            guided = guided_velocity(model, captions, negative, guidance_scale=self._guidance_scale)
            for x, t, wanted in passed:
                distances.append((guided(x, t) - wanted).square().sum())
                norms.append(wanted.square().sum())
        distance, norm = (math.fsum(torch.stack(terms).tolist()) for terms in (distances, norms))
        return distance / norm

    def _noting(self, model: SanaTransformer, drawn: _Drawn) -> Velocity:
        guided = guided_velocity(model, drawn.captions, drawn.negative, guidance_scale=self._guidance_scale)

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            v = guided(x, t)
            drawn.passed.append((x, t, v))
            return v

        return velocity
