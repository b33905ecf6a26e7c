"""A pipeline that draws every picture in one way: a sampler for best-of-N, and what describes it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from sana.kernels import Kernels
from sana.pipeline import SanaPipeline
from sana_dit import Quantization


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """A model and how it draws; None is the checkpoint's own, or as `from_pretrained` has it.

    `loras` are adapters with their scales.
    """

    model: str
    revision: str | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    negative_prompt: str = ""
    height: int | None = None
    width: int | None = None
    device: str | None = None
    dtype: torch.dtype | None = None
    offload: bool = False
    tile: int | None = None
    quantize: Quantization | None = None
    kernels: Kernels | None = None
    loras: tuple[tuple[str, float], ...] = ()

    @property
    def options(self) -> dict[str, Any]:
        """What every picture is drawn with."""
        names = ("steps", "guidance_scale", "negative_prompt", "height", "width")
        return {name: getattr(self, name) for name in names}


class PipelineSampler:
    """A pipeline that draws every picture in one way; it can show its pictures half-way."""

    def __init__(self, pipeline: SanaPipeline, drawing: Drawing) -> None:
        self._pipeline = pipeline
        self._options = drawing.options

    def __call__(self, prompt: str, seeds: Sequence[int]) -> list[Image.Image]:
        """One picture per seed."""
        return self._pipeline(prompt, seeds, batch_size=max(1, len(seeds)), progress=False, **self._options)

    def previewing(
        self,
        prompt: str,
        seeds: Sequence[int],
        *,
        at: Sequence[float],
        keep: Callable[[Sequence[Image.Image]], Sequence[int]],
    ) -> list[tuple[int, Image.Image]]:
        """The same, going on at each look with those that `keep` names."""
        batch_size = max(1, len(seeds))
        return self._pipeline.previewing(prompt, seeds, at=at, keep=keep, batch_size=batch_size, **self._options)


def load_pipeline(drawing: Drawing) -> SanaPipeline:
    """The pipeline that a drawing describes, with its adapters."""
    pipeline = SanaPipeline.from_pretrained(
        drawing.model,
        revision=drawing.revision,
        device=drawing.device,
        dtype=drawing.dtype,
        quantize=drawing.quantize,
        offload=drawing.offload,
        tile=drawing.tile,
        kernels=drawing.kernels,
    )
    for source, scale in drawing.loras:
        pipeline.load_lora(source, scale=scale)
    return pipeline


def load_sampler(drawing: Drawing) -> PipelineSampler:
    """The sampler that a drawing describes."""
    return PipelineSampler(load_pipeline(drawing), drawing)
