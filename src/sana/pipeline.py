"""Prompt to picture: captions, a denoising loop, a decoder (SANA, figure 5)."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from sana.finite_checks import check_noise, checked_captions, checked_images, checked_latents
from sana.kernels import use_kernels
from sana.pixels import resize_and_crop, to_pil
from sana.pretrained_pipeline import PretrainedPipeline
from sana.previews import Keep, draw_with_previews
from sana.prompts import pair
from sana.resolution import drawing_size, resolution_bins
from sana_dit import (
    Captions,
    GuidedVelocity,
    OnStep,
    StepGraphs,
    Velocity,
    draw_noise,
    flow_dpm_solver,
    guided_velocity,
    load_lora,
    scm,
    seeded_generators,
)


class SanaPipeline(PretrainedPipeline):
    """A caption encoder, a transformer and an autoencoder that make pictures together.

    A seed names an image: picture k depends on prompt k and seed k, not on the batch it is made in (bit for bit at the
    same batch shape). The starting noise is drawn on the CPU in fp32: it is the same on every device, and the same that
    diffusers draws from a CPU generator with that seed. A pipeline is a sampler as sana_scale wants one.
    """

    _graphs: StepGraphs | None = None

    def load_lora(
        self,
        repo_dir_or_file: str | Path,
        *,
        scale: float = 1.0,
        name: str | None = None,
        file: str | None = None,
        revision: str | None = None,
    ) -> str:
        """Add a LoRA adapter to the transformer and return its name; see `sana_dit.load_lora`."""
        return load_lora(self.transformer, repo_dir_or_file, scale=scale, name=name, file=file, revision=revision)

    @property
    def device(self) -> torch.device:
        """Where pictures are drawn: with the transformer, or, where accelerate offloads that, with the autoencoder."""
        device = next(self.transformer.parameters()).device
        return next(self.autoencoder.parameters()).device if device.type == "meta" else device

    @property
    def is_sprint(self) -> bool:
        """Whether the transformer takes few steps and its guidance scale as an input (SANA-Sprint)."""
        return self.transformer.config.guidance_embeds

    def __call__(
        self,
        prompts: str | Sequence[str],
        seeds: Sequence[int] | None = None,
        *,
        height: int | None = None,
        width: int | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        negative_prompt: str = "",
        binning: bool = True,
        batch_size: int = 8,
        noise: Tensor | None = None,
        on_step: OnStep | None = None,
        on_image: Callable[[int, Image.Image], object] | None = None,
        progress: bool = True,
    ) -> list[Image.Image]:
        """Draw one picture per seed.

        Args:
            prompts: one prompt for all seeds, or as many prompts as seeds. An empty prompt is a prompt.
            seeds: names of the pictures; None is seed 0 for every prompt.
            height: pixels; None is the size the checkpoint was trained at.
            width: as height.
            steps: evaluations of the transformer per picture; None is the checkpoint's own (20; Sprint 2).
            guidance_scale: None is the checkpoint's own (4.5). 1 or less switches guidance off.
            negative_prompt: what to lead away from; not for Sprint.
            binning: whether a public checkpoint draws at the nearest size it was trained at and then scales and crops.
            batch_size: how many pictures at most are drawn, and prompts encoded, at once.
            noise: starting noise (len(seeds), C, h, w) in the place of that of the seeds.
            on_step: called after each step of a batch with the number of the step and the estimate of x0 (B, C, h, w),
                latents that `decode` takes.
            on_image: called with the number of a picture and the picture as soon as it is finished.
            progress: whether to show a progress bar.

        Raises:
            ValueError: an argument is out of range; the message says what is allowed.
            FloatingPointError: a stage gave NaN or infinite values; the message says which.
        """
        prompts, seeds = pair(prompts, seeds)
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        steps, scale = self.settings(steps, guidance_scale)
        drawn, wanted = self.sizes(height, width, binning=binning)
        shape = (len(seeds), *self._latent_shape(drawn))
        check_noise(noise, shape)
        row_of = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
        captions, negative = self.encode(
            list(row_of), negative_prompt=negative_prompt, guidance_scale=scale, batch_size=batch_size
        )
        pictures: list[Image.Image] = []
        encoded_prompts: list[str] = []  # those that `velocity` is for
        with tqdm(total=steps * -(-len(seeds) // batch_size), unit="step", disable=not progress) as bar:

            def after_step(step: int, x0: Tensor) -> None:
                bar.update()
                if on_step is not None:
                    on_step(step, x0)

            for start in range(0, len(seeds), batch_size):
                part = slice(start, start + batch_size)
                if prompts[part] != encoded_prompts:  # else the transformer has read these captions
                    encoded_prompts = prompts[part]
                    rows = [row_of[prompt] for prompt in encoded_prompts]
                    chunk = Captions(captions.embeddings[rows], captions.mask[rows])
                    velocity = self.velocity(chunk, negative, guidance_scale=scale)
                first = None if noise is None else noise[part]
                latents = self.follow(velocity, seeds[part], size=drawn, steps=steps, noise=first, on_step=after_step)
                for picture in to_pil(resize_and_crop(self.decode(latents), *wanted)):
                    pictures.append(picture)
                    if on_image is not None:
                        on_image(len(pictures) - 1, picture)
        return pictures

    def previewing(
        self,
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
        """Draw one picture per seed, and give up on some of them half-way; sana_scale prunes with it.

        Args:
            prompt: of all pictures.
            seeds: names of the pictures.
            at: rising fractions of the steps at which to look, between 0 and 1.
            keep: called at each look with what the pictures still in the race will come to (the estimate of x0,
                decoded), in the order of their seeds; returns the places in that list to go on with.
            height: as in a call, and so are the arguments that follow.
            width: pixels.
            steps: evaluations of the transformer.
            guidance_scale: 1 or less switches guidance off.
            negative_prompt: what to lead away from.
            binning: whether public checkpoints draw at a size they know.
            batch_size: how many pictures at most are evaluated or decoded at once.

        Returns:
            (seed, picture) of those drawn to the end, in the order of `seeds`.

        Raises:
            ValueError: looks fall on the same step, or `keep` names no picture that is there; else as a call.
        """
        return draw_with_previews(
            self, prompt, seeds, at=at, keep=keep, height=height, width=width, steps=steps,
            guidance_scale=guidance_scale, negative_prompt=negative_prompt, binning=binning, batch_size=batch_size,
        )  # fmt: skip

    def settings(self, steps: int | None, guidance_scale: float | None) -> tuple[int, float]:
        """Steps and guidance scale, the checkpoint's own where they are None; ValueError for a scale of NaN, say."""
        steps = self.facts.steps_for(self.is_sprint) if steps is None else steps
        scale = self.facts.guidance_scale if guidance_scale is None else guidance_scale
        if not math.isfinite(scale):
            raise ValueError(f"guidance_scale is {scale}; it must be a finite number, 1 or less for no guidance")
        return steps, scale

    def sizes(
        self, height: int | None, width: int | None, *, binning: bool = True
    ) -> tuple[tuple[int, int], tuple[int, int]]:
        """The (height, width) to draw at and the (height, width) to give back; see `drawing_size`."""
        f, sample_size = self.autoencoder.config.compression, self.transformer.config.sample_size
        wanted = (sample_size * f if height is None else height, sample_size * f if width is None else width)
        return drawing_size(*wanted, resolution_bins(sample_size), f=f, binning=binning), wanted

    @torch.inference_mode()
    def encode(
        self, prompts: Sequence[str], *, guidance_scale: float, negative_prompt: str = "", batch_size: int = 8
    ) -> tuple[Captions, Captions | None]:
        """Captions of the prompts, one row each, and of the negative prompt where guidance by that scale needs it."""
        if self.is_sprint and negative_prompt:
            raise ValueError(f"negative_prompt is {negative_prompt!r}; a Sprint model has none: leave it out")
        encoder = self.caption_encoder
        chunks = [prompts[start : start + batch_size] for start in range(0, len(prompts), batch_size)]
        null_caption = self.transformer.null_caption is not None and not negative_prompt
        negative = None
        with self._encoder_on_device():
            captions = self._to_transformer(_joined([encoder(chunk) for chunk in chunks]))
            if guidance_scale > 1 and not self.is_sprint and not null_caption:
                negative = self._to_transformer(encoder([negative_prompt], chi=False))
        return captions, negative

    @torch.inference_mode()
    def denoise(
        self,
        captions: Captions,
        negative: Captions | None,
        seeds: Sequence[int],
        *,
        size: tuple[int, int],
        steps: int,
        guidance_scale: float,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Latents (B, C, h, w) in fp32, times the scaling factor, for pictures of `size` (height, width)."""
        velocity = self.velocity(captions, negative, guidance_scale=guidance_scale)
        return self.follow(velocity, seeds, size=size, steps=steps, on_step=on_step)

    def velocity(self, captions: Captions, negative: Captions | None, *, guidance_scale: float) -> GuidedVelocity:
        """What a sampler follows for these captions; on a GPU its steps are CUDA graphs unless `cuda_graph` is off."""
        return guided_velocity(
            self.transformer, captions, negative, guidance_scale=guidance_scale, denoise=self._step_graphs()
        )

    @torch.inference_mode()
    def follow(
        self,
        velocity: Velocity,
        seeds: Sequence[int],
        *,
        size: tuple[int, int],
        steps: int,
        noise: Tensor | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Latents as `denoise` gives them, along any velocity, by the checkpoint's sampler.

        They start from `noise` (B, C, h, w), or, without it, from that of the seeds.
        """
        shape = self._latent_shape(size)
        with use_kernels(self.kernels):
            generators = seeded_generators(seeds)
            noise = (draw_noise(generators, shape) if noise is None else noise).to(self.device)
            if self.is_sprint:
                latents = scm(velocity, noise, steps=steps, generators=generators, on_step=on_step)
            else:
                latents = flow_dpm_solver(velocity, noise, steps=steps, shift=self.facts.flow_shift, on_step=on_step)
        return checked_latents(latents, self.transformer)

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] of scaled latents, in tiles of `self.tile` pixels.

        Above 1024 pixels a side they are decoded one at a time, as a decoder in bf16 takes 1.1 GiB for each megapixel.
        """
        config, dtype = self.autoencoder.config, next(self.autoencoder.parameters()).dtype
        large = max(latents.shape[-2:]) * config.compression > 1024
        pieces = (latents / config.scaling_factor).to(dtype).chunk(len(latents) if large else 1)
        with use_kernels(self.kernels):
            images = [self.autoencoder.decode(piece, tile=self.tile, progress=False).float() for piece in pieces]
        return checked_images(torch.cat(images), dtype)

    def _latent_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        f = self.autoencoder.config.compression
        return self.transformer.config.in_channels, size[0] // f, size[1] // f

    def _step_graphs(self) -> StepGraphs | None:
        if not self.cuda_graph or self.device.type != "cuda":
            self._graphs = None
        elif self._graphs is None or self._graphs.model is not self.transformer:
            self._graphs = StepGraphs(self.transformer)
        return self._graphs

    @contextmanager
    def _encoder_on_device(self) -> Iterator[None]:
        """Where the caption encoder waits in CPU memory, it goes back there, also from an error."""
        try:
            if self.offload:
                self.caption_encoder.to(self.device)
            yield
        finally:
            if self.offload:
                self.caption_encoder.to("cpu")

    def _to_transformer(self, captions: Captions) -> Captions:
        embeddings, mask = checked_captions(captions)
        return Captions(embeddings.to(self.device, next(self.transformer.parameters()).dtype), mask.to(self.device))


def _joined(chunks: list[Captions]) -> Captions:
    return Captions(torch.cat([c.embeddings for c in chunks]), torch.cat([c.mask for c in chunks]))
