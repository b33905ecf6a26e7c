"""One step of a guided picture beside diffusers', exact savings included: `python -m benchmarks.guided_step`.

Both evaluate the batch [empty negative prompt, caption] that classifier-free guidance asks for. Ours has read the
captions before, once per picture, which is a twentieth of the work and timed by itself.
"""

import argparse
import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.floors import count_flops, weight_bytes
from benchmarks.gate import check_errors, relative_error
from benchmarks.kernels import TRANSFORMER_KERNELS, check_kernels, fastest
from benchmarks.machine import add_row, ceilings, describe, floor_seconds
from benchmarks.references import (
    CAPTION_TOKENS,
    HAS_DIFFUSERS,
    REFERENCE,
    TRANSFORMERS,
    build,
    build_diffusers,
    call_reference,
    draw_inputs,
)
from benchmarks.timing import Contender, interleaved, summarise
from sana_dit import Captions, SanaConfig, SanaTransformer, StepGraphs, guided_velocity

SCALE = 4.5
CHECKED_LAYERS = 4  # of the model's width: enough to see an error, and room for an exact copy


def main() -> None:
    """Checks, measures every dtype and size, and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", default="small", choices=TRANSFORMERS)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=("bfloat16", "float32"))
    parser.add_argument("--sides", type=int, nargs="+", default=[32], help="of the token grid; 32 is 1024 px")
    parser.add_argument("--words", type=int, default=60, help="caption tokens that count, of 300")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    device, shape = torch.device(args.device), TRANSFORMERS[args.model]
    result = {"benchmark": f"guided step of {args.model} beside diffusers", **describe(device), "reference": REFERENCE}
    name = "-".join(map(str, ("guided-step", args.model, *args.dtypes, *args.sides, args.words, "words")))
    with torch.inference_mode():
        for dtype in (getattr(torch, name) for name in args.dtypes):
            shallow = replace(shape, num_layers=min(CHECKED_LAYERS, shape.num_layers))
            errors = compare(*build(shallow, device=device, dtype=dtype), words=args.words)
            rates, models = ceilings(device, dtype), build_sharing(shape, device=device, dtype=dtype)
            for side in args.sides:
                row = {"dtype": str(dtype).removeprefix("torch."), "side": side, "words": args.words} | errors
                row |= measure(*models, side=side, words=args.words, repeats=args.repeats, rates=rates)
                add_row(result, row, name, args.out)
            del models


def build_sharing(config: SanaConfig, *, device: torch.device, dtype: torch.dtype) -> tuple[SanaTransformer, Any]:
    """Returns our model and diffusers' over one copy of random weights; None for the latter where it is not there."""
    torch.manual_seed(0)
    with torch.device(device):
        ours = SanaTransformer(config).eval().to(dtype)
    return ours, build_diffusers(ours, shared=True) if HAS_DIFFUSERS else None


def compare(ours: SanaTransformer, theirs: Any, *, words: int) -> dict[str, float]:
    """Returns both errors against the reference in float32 with the same rounded weights; stops if ours is larger."""
    inputs, reference = draw(ours, side=16, words=words), theirs or ours
    step, device = guided_step(ours, inputs), inputs["latents"].device
    check_kernels(step, TRANSFORMER_KERNELS, device)
    exact_inputs = {name: x.float() if x.is_floating_point() else x for name, x in inputs.items()}
    exact = guide(call_reference(copy.deepcopy(reference).float(), exact_inputs))
    outputs = step(), guide(call_reference(reference, inputs))
    errors = [relative_error(output, exact) for output in outputs]
    check_errors(errors[0], errors[1], ours.final.proj.weight.dtype)
    return {"error_ours": errors[0], "error_reference": errors[1]}


def measure(
    ours: SanaTransformer, theirs: Any, *, side: int, words: int, repeats: int, rates: dict[str, float]
) -> dict[str, Any]:
    """Returns times, ratios, and the distance to the floor of a plain forward on both halves of the batch."""
    inputs = draw(ours, side=side, words=words)
    device = inputs["latents"].device
    contenders: dict[str, Contender] = {"ours": guided_step(ours, inputs)}
    if device.type == "cuda":
        contenders["ours_as_a_graph"] = guided_step(ours, inputs, StepGraphs(ours))
    contenders["ours_unprepared"] = partial(_plain, ours, inputs)
    contenders["reading_captions"] = partial(ours.prepare, inputs["caption"], inputs["caption_mask"])
    if theirs is not None:
        contenders["diffusers"] = lambda: guide(call_reference(theirs, inputs))
    times = interleaved(contenders, repeats=repeats, device=device)
    flops = count_flops(ours.config, batch=2, side=side)
    return summarise(times, floor_seconds(flops, weight_bytes(ours), rates))


def draw(model: SanaTransformer, *, side: int, words: int) -> dict[str, Tensor]:
    """Returns the inputs of a forward on the batch [empty negative prompt, caption] of one sample."""
    weight = model.final.proj.weight
    inputs = draw_inputs(model.config, batch=2, side=side, device=weight.device, dtype=weight.dtype)
    inputs["latents"] = inputs["latents"][:1].expand(2, -1, -1, -1)
    lengths = torch.tensor([[1], [words]], device=weight.device)
    inputs["caption_mask"] = torch.arange(CAPTION_TOKENS, device=weight.device) < lengths
    return inputs


def guided_step(
    model: SanaTransformer, inputs: dict[str, Tensor], denoise: StepGraphs | None = None
) -> Callable[[], Tensor]:
    """Returns our evaluation of that batch as samplers call it, captions and timestep read."""
    pairs = zip(inputs["caption"].split(1), inputs["caption_mask"].split(1), strict=True)
    negative, captions = (Captions(*pair) for pair in pairs)
    velocity = guided_velocity(model, captions, negative, guidance_scale=SCALE, denoise=denoise)
    x, step = inputs["latents"][:1], velocity.scheduled(inputs["timestep"][:1])

    def run() -> Tensor:
        with fastest(x.device):
            return step(x, 0)

    return run


def guide(velocity: Tensor) -> Tensor:
    """Returns what classifier-free guidance makes of [unconditional, conditional]."""
    u, c = velocity.float().chunk(2)
    return u + SCALE * (c - u)


def _plain(model: SanaTransformer, inputs: dict[str, Tensor]) -> Tensor:
    with fastest(inputs["latents"].device):
        return guide(model(**inputs))


if __name__ == "__main__":
    main()
