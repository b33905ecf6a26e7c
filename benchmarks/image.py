"""A whole picture, prompt to pixels, beside diffusers' pipeline: `python -m benchmarks.image --model 1.5-1.6b`.

The embedded model is read from its folder by both. The public sizes have random weights (also of Gemma-2-2B) and the
embedded model's tokenizer, whose captions are padded to the same 300 tokens: the work is that of the real ones.
"""

import argparse
from importlib.resources import files
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import AutoencoderDC, DPMSolverMultistepScheduler
from PIL import Image
from transformers import AutoTokenizer, Gemma2Config, Gemma2Model

from benchmarks.gate import OPERATION_TESTS, pass_tests
from benchmarks.machine import describe, write_result
from benchmarks.references import TRANSFORMERS, build
from benchmarks.timing import Contender, interleaved
from sana import SanaPipeline
from sana.catalog import GEMMA_2_2B
from sana_ae import DC_AE_F32C32_SANA, DCAE
from sana_ae.weights import from_diffusers
from sana_dit import CaptionEncoder, ops
from sana_dit.ops.implementation import Implementation

EMBEDDED = Path(str(files("sana") / "embedded"))
PROMPT = "two red apples left of a cat"
LEVELS = 1  # of 255 that two pictures of the same weights in float32 may differ by


def main() -> None:
    """Measures every size and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", default="embedded", choices=("embedded", *TRANSFORMERS))
    parser.add_argument("--dtype", default="float32", choices=("bfloat16", "float32"))
    parser.add_argument("--pixels", type=int, nargs="+", default=[128])
    parser.add_argument("--batch", type=int, nargs="+", default=[1], help="pictures at once")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--compiled", action="store_true", help="measure diffusers with a compiled transformer as well")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-tests", action="store_true", help="when they have just passed")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    if device.type == "cuda" and not args.no_tests:
        pass_tests(OPERATION_TESTS, device)
    ours, theirs = read_embedded(device, dtype) if args.model == "embedded" else build_random(args.model, device, dtype)
    rows = []
    for pixels in args.pixels:
        for batch in args.batch:
            options = {"pixels": pixels, "batch": batch, "steps": args.steps}
            row = options | measure(ours, theirs, **options, compiled=args.compiled, repeats=args.repeats)
            rows.append(row)
            print(row, flush=True)
    result = {"benchmark": f"whole picture of {args.model} beside diffusers", **describe(device), "dtype": args.dtype}
    print(write_result(result | {"guidance_scale": 4.5, "results": rows}, f"image-{args.model}", args.out))


def read_embedded(device: torch.device, dtype: torch.dtype) -> tuple[SanaPipeline, Any]:
    """Returns both pipelines over the embedded model."""
    ours = SanaPipeline.from_pretrained(EMBEDDED, device=device, dtype=dtype)
    theirs = diffusers.SanaPipeline.from_pretrained(EMBEDDED, torch_dtype=dtype).to(device)
    theirs.set_progress_bar_config(disable=True)
    return ours, theirs


def build_random(model: str, device: torch.device, dtype: torch.dtype) -> tuple[SanaPipeline, Any]:
    """Returns both pipelines with random weights of a public size; they share the language model."""
    our_transformer, their_transformer = build(TRANSFORMERS[model], device=device, dtype=dtype)
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED / "tokenizer")
    torch.manual_seed(0)
    with torch.device(device):
        autoencoder = AutoencoderDC(**DC_AE_F32C32_SANA.to_dict()).eval().to(dtype)
        decoder = DCAE(DC_AE_F32C32_SANA).eval().to(dtype)
        text_encoder = Gemma2Model(Gemma2Config(**GEMMA_2_2B)).eval().to(dtype)
    decoder.load_state_dict(from_diffusers(autoencoder.state_dict()))
    scheduler = DPMSolverMultistepScheduler(flow_shift=3.0, use_flow_sigmas=True, prediction_type="flow_prediction")
    theirs = diffusers.SanaPipeline(tokenizer, text_encoder, autoencoder, their_transformer, scheduler)
    theirs.set_progress_bar_config(disable=True)
    return SanaPipeline(CaptionEncoder(tokenizer, text_encoder, chi=False), our_transformer, decoder), theirs


def measure(
    ours: SanaPipeline, theirs: Any, *, pixels: int, batch: int, steps: int, compiled: bool, repeats: int
) -> dict[str, Any]:
    """Returns times and ratios, and by how much the pictures differ."""
    device = ours.device
    implementation: Implementation = "fused" if device.type == "cuda" else "reference"
    seeds = list(range(batch))

    def draw() -> list[Image.Image]:
        with ops.use(implementation):
            size = {"height": pixels, "width": pixels, "binning": False}
            return ours(PROMPT, seeds, **size, steps=steps, guidance_scale=4.5, batch_size=batch, progress=False)

    def draw_theirs() -> list[Image.Image]:
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        pictures: list[Image.Image] = theirs(
            PROMPT,
            height=pixels,
            width=pixels,
            num_inference_steps=steps,
            guidance_scale=4.5,
            num_images_per_prompt=batch,
            generator=generators,
            use_resolution_binning=False,
            complex_human_instruction=None,
        ).images
        return pictures

    levels = difference(draw(), draw_theirs())
    if ours.transformer.final.proj.weight.dtype == torch.float32 and levels > LEVELS:
        raise SystemExit(f"the pictures differ by {levels} levels of 255, allowed is {LEVELS}; nothing was timed")
    contenders: dict[str, Contender] = {"ours": draw, "diffusers": draw_theirs}
    times = interleaved(contenders, repeats=repeats, device=device)
    if compiled:
        eager, theirs.transformer = theirs.transformer, torch.compile(theirs.transformer)
        times |= {"diffusers_compiled": interleaved({"it": draw_theirs}, repeats=repeats, device=device)["it"]}
        theirs.transformer = eager
    row: dict[str, Any] = {f"seconds_{name}": time.median for name, time in times.items()}
    row |= {f"speedup_over_{name}": times[name].over(times["ours"]) for name in times if name != "ours"}
    return row | {"largest_difference": levels}


def difference(ours: list[Image.Image], theirs: list[Image.Image]) -> int:
    """Returns the largest difference of two lists of pictures, in levels of 255."""
    pairs = [(np.asarray(a, dtype=int), np.asarray(b, dtype=int)) for a, b in zip(ours, theirs, strict=True)]
    return max(int(np.abs(a - b).max()) for a, b in pairs)


if __name__ == "__main__":
    main()
