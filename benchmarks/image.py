"""A whole picture, prompt to pixels, beside diffusers' pipeline: `python -m benchmarks.image --model 1.5-1.6b`.

A pipeline (folder, Hub id, name that `sana list` shows, or "embedded") is read by both. The public sizes have random
weights (also of Gemma-2-2B) and the embedded model's tokenizer, whose captions are padded to the same 300 tokens: the
work is that of the real ones.
"""

import argparse
import copy
from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoTokenizer, Gemma2Config, Gemma2Model

from benchmarks.autoencoder import build_diffusers as build_autoencoder
from benchmarks.floors import picture_floor
from benchmarks.gate import check_errors, pass_tests, relative_error
from benchmarks.kernels import AUTOENCODER_KERNELS, TRANSFORMER_KERNELS, check_kernels, fastest
from benchmarks.machine import add_row, ceilings, describe
from benchmarks.references import HAS_DIFFUSERS, REFERENCE, TRANSFORMERS, build
from benchmarks.timing import Contender, interleaved, summarise
from sana import SanaPipeline
from sana.catalog import GEMMA_2_2B
from sana.diffusers_comparison import draw_diffusers, draw_ours, load_diffusers
from sana.parity import Sampling
from sana_ae import DC_AE_F32C32_SANA, DCAE
from sana_dit import CaptionEncoder, SanaConfig

EMBEDDED = Path(str(files("sana") / "embedded"))
PROMPT = "two red apples left of a cat"
LEVELS = 1  # of 255 that two pictures of the same weights in float32 may differ by
CHECKED = {"batch": 8, "steps": 4}
GUIDANCE_SCALE = 4.5


def main() -> None:
    """Measures every size and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", default="embedded", help=f"a pipeline, or random weights: {', '.join(TRANSFORMERS)}")
    parser.add_argument("--dtype", default="float32", choices=("bfloat16", "float32"))
    parser.add_argument("--pixels", type=int, nargs="+", default=[128])
    parser.add_argument("--batch", type=int, nargs="+", default=[1], help="pictures at once")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--compiled", type=int, nargs="*", default=[], help="pixels to compare compiled diffusers at")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-tests", action="store_true", help="when they have just passed")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    if device.type == "cuda" and not args.no_tests:
        pass_tests(device)
    read = build_random if args.model in TRANSFORMERS else read_pipelines
    ours, theirs = read(args.model, device, dtype)
    rates = ceilings(device, dtype)
    result = {"benchmark": f"whole picture of {args.model} beside diffusers", **describe(device)}
    result |= {"reference": REFERENCE, "dtype": args.dtype, "guidance_scale": GUIDANCE_SCALE, "ceilings": rates}
    sizes = [(pixels, batch) for pixels in args.pixels for batch in args.batch]
    name = Path(args.model).name
    names = "image", name, args.dtype, args.steps, "steps", *(f"{pixels}x{batch}" for pixels, batch in sizes)
    # A public checkpoint draws at no sizes but those it was trained at; a large one takes seconds in float32.
    result |= check(ours, theirs, pixels=min(args.pixels if args.model not in TRANSFORMERS else (512, *args.pixels)))
    for pixels, batch in sizes:
        options = {"pixels": pixels, "batch": batch, "steps": args.steps}
        compiled = pixels in args.compiled
        row = measure(ours, theirs, **options, rates=rates, compiled=compiled, repeats=args.repeats)
        add_row(result, options | row, "-".join(map(str, names)), args.out)


def read_pipelines(model: str, device: torch.device, dtype: torch.dtype) -> tuple[SanaPipeline, Any]:
    """Returns both pipelines over the same files; None for diffusers' where it is not installed."""
    ours = SanaPipeline.from_pretrained(model, device=device, dtype=dtype)
    if not HAS_DIFFUSERS:
        return ours, None
    return ours, load_diffusers(model, sprint=ours.is_sprint, dtype=dtype, device=device)


def build_random(model: str, device: torch.device, dtype: torch.dtype) -> tuple[SanaPipeline, Any]:
    """Returns both pipelines with random weights of a public size; they share the language model."""
    our_transformer, their_transformer = build(of_any_size(TRANSFORMERS[model]), device=device, dtype=dtype)
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED / "tokenizer")
    torch.manual_seed(0)
    with torch.device(device):
        decoder = DCAE(DC_AE_F32C32_SANA).eval().to(dtype)
        text_encoder = Gemma2Model(Gemma2Config(**GEMMA_2_2B)).eval().to(dtype)
    ours = SanaPipeline(CaptionEncoder(tokenizer, text_encoder, chi=False), our_transformer, decoder)
    if not HAS_DIFFUSERS:
        return ours, None
    import diffusers

    scheduler = diffusers.DPMSolverMultistepScheduler(
        flow_shift=3.0, use_flow_sigmas=True, prediction_type="flow_prediction"
    )
    parts = tokenizer, text_encoder, build_autoencoder(decoder), their_transformer, scheduler
    theirs = diffusers.SanaPipeline(*parts)
    theirs.set_progress_bar_config(disable=True)
    return ours, theirs


def of_any_size(config: SanaConfig) -> SanaConfig:
    """Returns the same network with a nominal size of no public checkpoint, which has no bins to keep to."""
    return replace(config, sample_size=1)


def check(ours: SanaPipeline, theirs: Any, *, pixels: int) -> dict[str, float]:
    """Stops the benchmark where our pictures are wrong; returns both errors.

    In float32 they may differ from diffusers' by `LEVELS`; in bfloat16 they are compared with those of the reference
    in float32, with the same rounded weights.
    """
    weight, sampling = ours.transformer.final.proj.weight, _sampling(ours, pixels=pixels, **CHECKED)
    # One step, which is no CUDA graph yet: a replay calls no operators.
    first_step = partial(draw, ours, replace(sampling, steps=1))
    check_kernels(first_step, TRANSFORMER_KERNELS | AUTOENCODER_KERNELS, weight.device)
    pictures = [stacked(draw(ours, sampling)), stacked(draw_reference(theirs or ours, sampling))]
    if weight.dtype == torch.float32:
        levels = int((pictures[0] - pictures[1]).abs().max())
        if levels > LEVELS:
            raise SystemExit(f"the pictures differ by {levels} levels of 255, allowed is {LEVELS}; nothing was timed")
        return {"largest_difference": levels}
    exact = stacked(draw_reference(in_float32(theirs or ours), sampling))
    errors = [relative_error(each, exact) for each in pictures]
    check_errors(errors[0], errors[1], weight.dtype)
    return {"error_ours": errors[0], "error_reference": errors[1]}


def in_float32(pipeline: Any) -> Any:
    """Returns a copy of a pipeline that computes in float32."""
    if isinstance(pipeline, SanaPipeline):
        copied = copy.copy(pipeline)
        copied.caption_encoder = copy.deepcopy(pipeline.caption_encoder).to(dtype=torch.float32)
        copied.transformer = copy.deepcopy(pipeline.transformer).float()
        copied.autoencoder = copy.deepcopy(pipeline.autoencoder).float()
        return copied
    copied = type(pipeline)(**{name: copy.deepcopy(part) for name, part in pipeline.components.items()})
    copied.set_progress_bar_config(disable=True)
    return copied.to(torch.float32)


def measure(
    ours: SanaPipeline,
    theirs: Any,
    *,
    pixels: int,
    batch: int,
    steps: int,
    rates: dict[str, float],
    compiled: bool,
    repeats: int,
) -> dict[str, Any]:
    """Returns times, ratios and the floor."""
    sampling = _sampling(ours, pixels=pixels, batch=batch, steps=steps)
    contenders: dict[str, Contender] = {"ours": partial(draw, ours, sampling)}
    if theirs is not None:
        contenders["diffusers"] = partial(draw_reference, theirs, sampling)
    if theirs is not None and compiled:
        their_compiled = copy.copy(theirs)
        their_compiled.transformer = torch.compile(theirs.transformer)
        contenders["diffusers_compiled"] = partial(draw_reference, their_compiled, sampling)
    times = interleaved(contenders, repeats=repeats, device=ours.device)
    floor = picture_floor(ours, pixels=pixels, batch=batch, steps=steps, rates=rates)
    return floor | summarise(times, floor["floor_seconds"])


def draw(pipeline: SanaPipeline, sampling: Sampling) -> list[Image.Image]:
    """Returns our pictures of a prompt, on a GPU with our kernels."""
    with fastest(pipeline.device):
        return draw_ours(pipeline, sampling, PROMPT)


def draw_reference(pipeline: Any, sampling: Sampling) -> list[Image.Image]:
    """Returns diffusers' pictures, or ours in plain PyTorch where that is not there."""
    drawn = draw_ours if isinstance(pipeline, SanaPipeline) else draw_diffusers
    return drawn(pipeline, sampling, PROMPT)


def stacked(pictures: list[Image.Image]) -> torch.Tensor:
    """Returns pictures as numbers, in levels of 255 around grey."""
    return torch.from_numpy(np.stack([np.asarray(picture, dtype=np.float64) for picture in pictures])) - 127.5


def _sampling(pipeline: SanaPipeline, *, pixels: int, batch: int, steps: int) -> Sampling:
    return Sampling(
        seeds=tuple(range(batch)),
        height=pixels,
        width=pixels,
        steps=steps,
        guidance_scale=GUIDANCE_SCALE,
        chi=pipeline.caption_encoder.chi,
        max_tokens=pipeline.caption_encoder.max_tokens,
    )


if __name__ == "__main__":
    main()
