"""A pipeline's pictures beside those that diffusers draws of the same files, prompts and seeds."""

import datetime
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from sana.catalog import locate
from sana.cpu_precision import cpu_name
from sana.kernels import Kernels, kernels_in_force
from sana.loading_bars import no_bars
from sana.parity import STEPS_WITH_A_MIDDLE, Parity, Sampling, weights_hash
from sana.pipeline import SanaPipeline

_PACKAGES = ("sana-suite", "sana-dit", "sana-ae", "diffusers", "transformers", "torch")


def compare_with_diffusers(
    model: str,
    prompts: Sequence[str],
    *,
    seeds: Sequence[int] = (0,),
    height: int | None = None,
    width: int | None = None,
    steps: int | None = None,
    guidance_scale: float | None = None,
    revision: str | None = None,
    variant: str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    kernels: Kernels | None = None,
    progress: bool = True,
) -> Parity:
    """Draw the same pictures with both, one pipeline in memory at a time.

    In half precision two right implementations differ; there both are compared too with what diffusers draws in
    float32 of the same rounded weights.

    Args:
        model: Pipeline folder, Hub id, name in the catalog, or "embedded".
        prompts: What to draw.
        seeds: Of each prompt's pictures.
        height: Pixels; None is the size the checkpoint was trained at, others are brought to the nearest such size.
        width: As height.
        steps: None is the checkpoint's own.
        guidance_scale: None is the checkpoint's own.
        revision: Branch, tag or commit of the Hub repository.
        variant: Of the files that diffusers is to read, such as "bf16"; ours finds it itself.
        device: None is the first GPU, else the CPU.
        dtype: That both compute in; in float16 caption encoder and autoencoder run in bfloat16.
        kernels: Of ours; see `SanaPipeline.from_pretrained`.
        progress: Whether to show a progress bar.

    Raises:
        ImportError: diffusers is not installed.
        ValueError: There is no prompt or no seed, or another argument is out of range.
    """
    if not prompts or not seeds:
        raise ValueError(f"{len(prompts)} prompts and {len(seeds)} seeds are given: give at least one of each")
    _check_diffusers()
    ours = SanaPipeline.from_pretrained(model, revision=revision, device=device, dtype=dtype, kernels=kernels)
    sampling = _sampling(ours, seeds, (height, width), steps, guidance_scale)
    place, sprint = ours.device, ours.is_sprint
    drawn = partial(_pictures, prompts, progress=progress)
    pictures = drawn("ours", partial(draw_ours, ours, sampling))
    del ours
    files = {"revision": revision, "variant": variant}
    theirs = load_diffusers(model, sprint=sprint, dtype=dtype, device=place, progress=progress, **files)
    references, exact = drawn("diffusers'", partial(draw_diffusers, theirs, sampling)), None
    if dtype != torch.float32:
        exact = drawn("diffusers', float32", partial(draw_diffusers, _widen(theirs), sampling))
    del theirs
    difference = np.abs(pictures - references)
    return Parity(
        model=model,
        weights=weights_hash(model, revision=revision),
        prompts=tuple(prompts),
        sampling=sampling,
        dtype=str(dtype).removeprefix("torch."),
        kernels=kernels_in_force(kernels),
        device=torch.cuda.get_device_name(place) if place.type == "cuda" else cpu_name(),
        date=datetime.date.today().isoformat(),
        versions={name: version(name) for name in _PACKAGES},
        largest_difference=int(difference.max()),
        mean_difference=float(difference.mean()),
        error=_root_mean_square(pictures, exact),
        reference_error=_root_mean_square(references, exact),
    )


def _sampling(
    pipeline: SanaPipeline,
    seeds: Sequence[int],
    size: tuple[int | None, int | None],
    steps: int | None,
    guidance_scale: float | None,
) -> Sampling:
    """What is drawn where some settings are left to the checkpoint; `size` is height and width."""
    (height, width), _ = pipeline.sizes(*size)
    steps, scale = pipeline.settings(steps, guidance_scale)
    return Sampling(
        seeds=tuple(seeds),
        height=height,
        width=width,
        steps=steps,
        guidance_scale=scale,
        chi=pipeline.caption_encoder.chi,
        max_tokens=pipeline.caption_encoder.max_tokens,
    )


def _root_mean_square(rounded: NDArray[np.float64], exact: NDArray[np.float64] | None) -> float | None:
    return None if exact is None else float(np.sqrt(np.mean((rounded - exact) ** 2)))


def draw_ours(pipeline: SanaPipeline, sampling: Sampling, prompt: str) -> list[Image.Image]:
    """The pictures of our pipeline, all in one batch."""
    return pipeline(
        prompt,
        sampling.seeds,
        height=sampling.height,
        width=sampling.width,
        steps=sampling.steps,
        guidance_scale=sampling.guidance_scale,
        binning=False,
        batch_size=len(sampling.seeds),
        progress=False,
    )


def draw_diffusers(pipeline: Any, sampling: Sampling, prompt: str) -> list[Image.Image]:
    """The pictures of diffusers' SanaPipeline or SanaSprintPipeline, all in one batch."""
    options: dict[str, Any] = {} if sampling.chi else {"complex_human_instruction": None}
    if type(pipeline).__name__ == "SanaSprintPipeline" and sampling.steps != STEPS_WITH_A_MIDDLE:
        options["intermediate_timesteps"] = None
    pictures: list[Image.Image] = pipeline(
        prompt,
        height=sampling.height,
        width=sampling.width,
        num_inference_steps=sampling.steps,
        guidance_scale=sampling.guidance_scale,
        num_images_per_prompt=len(sampling.seeds),
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in sampling.seeds],
        use_resolution_binning=False,
        max_sequence_length=sampling.max_tokens,
        **options,
    ).images
    return pictures


def load_diffusers(
    model: str | Path,
    *,
    sprint: bool,
    dtype: torch.dtype,
    device: torch.device,
    revision: str | None = None,
    variant: str | None = None,
    progress: bool = False,
) -> Any:
    """diffusers' pipeline of the same files; in float16 its text encoder and autoencoder are in bfloat16, as ours are.

    Raises:
        ImportError: diffusers is not installed.
        OSError: A file is not there, or there as a variant alone that was not named.
    """
    _check_diffusers()
    import diffusers

    source, revision = locate(model, revision)
    cls = diffusers.SanaSprintPipeline if sprint else diffusers.SanaPipeline
    dtypes = {"transformer": dtype, "default": torch.bfloat16 if dtype == torch.float16 else dtype}
    with (
        nullcontext() if progress else no_bars(diffusers.utils.logging),
        warnings.catch_warnings(action="ignore", category=FutureWarning),  # newer releases prefer another name
    ):
        pipeline = cls.from_pretrained(source, revision=revision, variant=variant, torch_dtype=dtypes)
    pipeline.to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _widen(pipeline: Any) -> Any:
    """The pipeline with its rounded weights in float32, without diffusers' advice on casting."""
    for part in (pipeline.text_encoder, pipeline.transformer, pipeline.vae):
        torch.nn.Module.to(part, torch.float32)
    return pipeline


def _check_diffusers() -> None:
    if find_spec("diffusers") is None:
        raise ImportError("a comparison with diffusers needs it: pip install 'sana-suite[parity]'")


def _pictures(
    prompts: Sequence[str], whose: str, draw: Callable[[str], list[Image.Image]], *, progress: bool
) -> NDArray[np.float64]:
    """Pictures (prompts x seeds, H, W, 3) in levels of 255."""
    shown = tqdm(prompts, desc=whose, unit="prompt", disable=not progress)
    return np.stack([np.asarray(picture, dtype=np.float64) for prompt in shown for picture in draw(prompt)])
