"""A transformer forward beside diffusers', and a block over more and more tokens: `python -m benchmarks.denoiser`."""

import argparse
import copy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.floors import count_flops, weight_bytes
from benchmarks.gate import check_errors, pass_tests, relative_error
from benchmarks.kernels import TRANSFORMER_KERNELS, check_kernels, fastest
from benchmarks.machine import add_row, ceilings, describe, floor_seconds
from benchmarks.references import CAPTION_TOKENS, REFERENCE, TRANSFORMERS, build, call_reference, draw_inputs
from benchmarks.timing import Contender, Times, cuda_graph, interleaved, summarise
from sana_dit import SanaConfig, SanaTransformer


def main() -> None:
    """Checks, measures every size, and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", default="1.5-1.6b", choices=TRANSFORMERS)
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16"], choices=("bfloat16", "float16", "float32"))
    parser.add_argument("--batch", type=int, nargs="+", default=[2], help="2 is one picture with guidance")
    parser.add_argument("--sides", type=int, nargs="+", default=[16, 32], help="of the token grid; 32 is 1024 px")
    parser.add_argument("--block-sides", type=int, nargs="*", default=[], help="token grids for one block alone")
    parser.add_argument("--compiled", action="store_true", help="measure compiled diffusers as well")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--no-tests", action="store_true", help="when they have just passed")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    device, config = torch.device(args.device), TRANSFORMERS[args.model]
    if device.type == "cuda" and not args.no_tests:
        pass_tests(device)
    result = {"benchmark": f"forward of {args.model} beside diffusers", **describe(device), "reference": REFERENCE}
    sizes = [(batch, side) for batch in args.batch for side in args.sides]
    name = "-".join(map(str, ("dit", args.model, *args.dtypes, *(f"{side}x{batch}" for batch, side in sizes))))
    with torch.inference_mode():
        for dtype in (getattr(torch, name) for name in args.dtypes):
            rates, models = ceilings(device, dtype), build(config, device=device, dtype=dtype)
            errors = compare(*models, config, device=device, dtype=dtype)
            named = {"dtype": str(dtype).removeprefix("torch.")}
            for side in args.block_sides:
                row = measure_block(models[0], side, args.repeats, device=device, dtype=dtype)
                add_row(result, named | row, name, args.out)
            for batch, side in sizes:
                inputs = draw_inputs(config, batch=batch, side=side, device=device, dtype=dtype)
                times = measure(*models, inputs, args.repeats, compiled=args.compiled)
                flops = count_flops(config, batch=batch, side=side)
                row = summarise(times, floor_seconds(flops, weight_bytes(models[0]), rates))
                add_row(result, named | {"batch": batch, "side": side} | errors | row, name, args.out)


def compare(
    ours: SanaTransformer, theirs: Any, config: SanaConfig, *, device: torch.device, dtype: torch.dtype
) -> dict[str, float]:
    """Returns both errors against the reference in float32 with the same rounded weights; stops if ours is larger."""
    inputs, reference = draw_inputs(config, batch=1, side=16, device=device, dtype=dtype), theirs or ours
    check_kernels(partial(call_ours, ours, inputs), TRANSFORMER_KERNELS, device)
    exact = call_reference(copy.deepcopy(reference).float(), {name: x.float() for name, x in inputs.items()})
    outputs = call_ours(ours, inputs), call_reference(reference, inputs)
    errors = [relative_error(output, exact) for output in outputs]
    check_errors(errors[0], errors[1], dtype)
    return {"error_ours": errors[0], "error_reference": errors[1]}


def call_ours(model: SanaTransformer, inputs: dict[str, Tensor]) -> Tensor:
    """Returns the velocity of our model, on a GPU with its kernels."""
    with fastest(inputs["latents"].device):
        velocity: Tensor = model(**inputs)
    return velocity


def measure(
    ours: SanaTransformer, theirs: Any, inputs: dict[str, Tensor], repeats: int, *, compiled: bool
) -> dict[str, Times]:
    """Returns the times of our forward, plain and as a CUDA graph, and of diffusers', plain and compiled."""
    device, run = inputs["latents"].device, partial(call_ours, ours, inputs)
    contenders: dict[str, Contender] = {"ours": run}
    if device.type == "cuda":
        contenders["ours_as_a_graph"] = cuda_graph(run)
    if theirs is not None:
        contenders["diffusers"] = partial(call_reference, theirs, inputs)
    if theirs is not None and compiled:
        contenders["diffusers_compiled"] = partial(call_reference, torch.compile(theirs), inputs)
    return interleaved(contenders, repeats=repeats, device=device)


def measure_block(
    model: SanaTransformer, side: int, repeats: int, *, device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """Returns the time of one block at a number of tokens: linear attention makes it grow as they do."""
    width, tokens = model.config.width, side**2
    x = torch.randn(1, tokens, width, device=device, dtype=dtype)
    caption = torch.randn(1, CAPTION_TOKENS, width, device=device, dtype=dtype)
    modulation = torch.randn(1, 6, width, device=device, dtype=dtype)

    def run() -> None:
        with fastest(device):
            model.blocks[0](x, modulation, caption, None, height=side, width=side)

    seconds = interleaved({"block": run}, repeats=repeats, device=device)["block"].median
    return {"blocks": 1, "tokens": tokens, "seconds_ours": seconds, "ns_a_token": 1e9 * seconds / tokens}


if __name__ == "__main__":
    main()
