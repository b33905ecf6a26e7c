"""A whole picture, prompt to pixels, beside diffusers' pipeline: `python -m benchmarks.image --model 1.5-1.6b`.

The embedded model is read from its folder by both. The public sizes have random weights (also of Gemma-2-2B) and the
embedded model's tokenizer, whose captions are padded to the same 300 tokens: the work is that of the real ones.
"""

import argparse
import copy
from collections.abc import Sequence
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
from sana_ae import DC_AE_F32C32_SANA, DCAE
from sana_dit import CaptionEncoder

EMBEDDED = Path(str(files("sana") / "embedded"))
PROMPT = "two red apples left of a cat"
LEVELS = 1  # of 255 that two pictures of the same weights in float32 may differ by
# At no more than 512 px: the largest model takes seconds in float32.
CHECKED: dict[str, Any] = {"seeds": range(8), "steps": 4}


def main() -> None:
    """Measures every size and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", default="embedded", choices=("embedded", *TRANSFORMERS))
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
    ours, theirs = read_embedded(device, dtype) if args.model == "embedded" else build_random(args.model, device, dtype)
    rates = ceilings(device, dtype)
    result = {"benchmark": f"whole picture of {args.model} beside diffusers", **describe(device)}
    result |= {"reference": REFERENCE, "dtype": args.dtype, "guidance_scale": 4.5, "ceilings": rates}
    sizes = [(pixels, batch) for pixels in args.pixels for batch in args.batch]
    names = "image", args.model, args.dtype, args.steps, "steps", *(f"{pixels}x{batch}" for pixels, batch in sizes)
    result |= check(ours, theirs, pixels=min(512, *args.pixels))
    for pixels, batch in sizes:
        options = {"pixels": pixels, "batch": batch, "steps": args.steps}
        compiled = pixels in args.compiled
        row = measure(ours, theirs, **options, rates=rates, compiled=compiled, repeats=args.repeats)
        add_row(result, options | row, "-".join(map(str, names)), args.out)


def read_embedded(device: torch.device, dtype: torch.dtype) -> tuple[SanaPipeline, Any]:
    """Returns both pipelines over the embedded model; None for diffusers' where it is not installed."""
    ours = SanaPipeline.from_pretrained(EMBEDDED, device=device, dtype=dtype)
    if not HAS_DIFFUSERS:
        return ours, None
    import diffusers

    theirs = diffusers.SanaPipeline.from_pretrained(EMBEDDED, torch_dtype=dtype).to(device)
    theirs.set_progress_bar_config(disable=True)
    return ours, theirs


def build_random(model: str, device: torch.device, dtype: torch.dtype) -> tuple[SanaPipeline, Any]:
    """Returns both pipelines with random weights of a public size; they share the language model."""
    our_transformer, their_transformer = build(TRANSFORMERS[model], device=device, dtype=dtype)
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


def check(ours: SanaPipeline, theirs: Any, *, pixels: int) -> dict[str, float]:
    """Stops the benchmark where our pictures are wrong; returns both errors.

    In float32 they may differ from diffusers' by `LEVELS`; in bfloat16 they are compared with those of the reference
    in float32, with the same rounded weights.
    """
    weight, options = ours.transformer.final.proj.weight, {"pixels": pixels, **CHECKED}
    # One step, which is no CUDA graph yet: a replay calls no operators.
    first_step = partial(draw, ours, **options | {"steps": 1})
    check_kernels(first_step, TRANSFORMER_KERNELS | AUTOENCODER_KERNELS, weight.device)
    pictures = [stacked(draw(ours, **options)), stacked(draw_reference(theirs or ours, **options))]
    if weight.dtype == torch.float32:
        levels = int((pictures[0] - pictures[1]).abs().max())
        if levels > LEVELS:
            raise SystemExit(f"the pictures differ by {levels} levels of 255, allowed is {LEVELS}; nothing was timed")
        return {"largest_difference": levels}
    exact = stacked(draw_reference(in_float32(theirs or ours), **options))
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
    options: dict[str, Any] = {"pixels": pixels, "seeds": range(batch), "steps": steps}
    contenders: dict[str, Contender] = {"ours": partial(draw, ours, **options)}
    if theirs is not None:
        contenders["diffusers"] = partial(draw_reference, theirs, **options)
    if theirs is not None and compiled:
        their_compiled = copy.copy(theirs)
        their_compiled.transformer = torch.compile(theirs.transformer)
        contenders["diffusers_compiled"] = partial(draw_reference, their_compiled, **options)
    times = interleaved(contenders, repeats=repeats, device=ours.device)
    floor = picture_floor(ours, pixels=pixels, batch=batch, steps=steps, rates=rates)
    return floor | summarise(times, floor["floor_seconds"])


def draw(pipeline: SanaPipeline, *, pixels: int, seeds: Sequence[int], steps: int) -> list[Image.Image]:
    """Returns our pictures of a prompt, on a GPU with our kernels."""
    with fastest(pipeline.device):
        return _ours(pipeline, pixels, seeds, steps)


def draw_reference(pipeline: Any, *, pixels: int, seeds: Sequence[int], steps: int) -> list[Image.Image]:
    """Returns diffusers' pictures, or ours in plain PyTorch where that is not there."""
    if isinstance(pipeline, SanaPipeline):
        return _ours(pipeline, pixels, seeds, steps)
    pictures: list[Image.Image] = pipeline(
        PROMPT,
        height=pixels,
        width=pixels,
        num_inference_steps=steps,
        guidance_scale=4.5,
        num_images_per_prompt=len(seeds),
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
        use_resolution_binning=False,
        complex_human_instruction=None,
    ).images
    return pictures


def stacked(pictures: list[Image.Image]) -> torch.Tensor:
    """Returns pictures as numbers, in levels of 255 around grey."""
    return torch.from_numpy(np.stack([np.asarray(picture, dtype=np.float64) for picture in pictures])) - 127.5


def _ours(pipeline: SanaPipeline, pixels: int, seeds: Sequence[int], steps: int) -> list[Image.Image]:
    settings: dict[str, Any] = {"steps": steps, "guidance_scale": 4.5, "batch_size": len(seeds), "progress": False}
    return pipeline(PROMPT, seeds, height=pixels, width=pixels, binning=False, **settings)


if __name__ == "__main__":
    main()
