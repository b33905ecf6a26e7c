"""A pipeline that draws every picture in one way: a sampler for best-of-N, and what describes it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from sana.catalog import locate
from sana.choices import Kernels
from sana.hub_absence import suggesting_names
from sana.kernels import kernels_in_force
from sana.pipeline import SanaPipeline
from sana.pipeline_folder import read_facts, read_json
from sana_dit import Quantization

FACTS = ("model", "revision", "loras", "sampler", "steps", "guidance_scale", "negative_prompt")


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

    @property
    def numerics(self) -> dict[str, Any]:
        """What decides how its numbers are rounded, for JSON."""
        return {
            "dtype": self.dtype and str(self.dtype).removeprefix("torch."),
            "quantize": self.quantize,
            "kernels": kernels_in_force(self.kernels),
        }

    def facts(self) -> dict[str, Any]:
        """What made a picture, beside its prompt, seed and size: `FACTS`, less a revision or adapters it lacks.

        Steps and scale that are not given are those of the checkpoint's files; weights are not read.

        Raises:
            FileNotFoundError: there is no such checkpoint.
        """
        source, revision = locate(self.model, self.revision)
        with suggesting_names(source, revision):
            checkpoint = read_facts(source, revision=revision)
            transformer = read_json(source, "transformer/config.json", revision) or {}
        sprint = bool(transformer.get("guidance_embeds"))
        values = {
            "model": self.model,
            "revision": self.revision,
            "loras": dict(self.loras),
            "sampler": "sCM" if sprint else "Flow-DPM-Solver",
            "steps": checkpoint.steps_for(sprint) if self.steps is None else self.steps,
            "guidance_scale": checkpoint.guidance_scale if self.guidance_scale is None else self.guidance_scale,
            "negative_prompt": self.negative_prompt,
        }
        return {name: values[name] for name in FACTS if values[name] or name not in ("revision", "loras")}


class PipelineSampler:
    """A pipeline that draws every picture in one way; it can show its pictures half-way.

    It draws all seeds of a call at once, or `batch_size` of them.
    """

    def __init__(self, pipeline: SanaPipeline, drawing: Drawing, *, batch_size: int | None = None) -> None:
        self._pipeline = pipeline
        self._options = drawing.options
        self._batch_size = batch_size

    def __call__(self, prompt: str, seeds: Sequence[int]) -> list[Image.Image]:
        """One picture per seed."""
        batch_size = self._batch_size or max(1, len(seeds))
        return self._pipeline(prompt, seeds, batch_size=batch_size, progress=False, **self._options)

    def previewing(
        self,
        prompt: str,
        seeds: Sequence[int],
        *,
        at: Sequence[float],
        keep: Callable[[Sequence[Image.Image]], Sequence[int]],
    ) -> list[tuple[int, Image.Image]]:
        """The same, going on at each look with those that `keep` names."""
        batch_size = self._batch_size or max(1, len(seeds))
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
