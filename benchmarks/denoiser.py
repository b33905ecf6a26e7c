"""A transformer forward beside diffusers', and a block over more and more tokens: `python -m benchmarks.denoiser`."""

import argparse
import copy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import SanaTransformer2DModel
from torch import Tensor

from benchmarks.gate import OPERATION_TESTS, check_errors, pass_tests, relative_error
from benchmarks.machine import ceilings, describe, floor_seconds, write_result
from benchmarks.references import CAPTION_TOKENS, TRANSFORMERS, build, call_diffusers, count_flops, draw_inputs
from benchmarks.timing import Contender, Times, cuda_graph, interleaved
from sana_dit import SanaConfig, SanaTransformer, ops
from sana_dit.ops.implementation import Implementation


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
        pass_tests(OPERATION_TESTS, device)
    rows = []
    with torch.inference_mode():
        for dtype in (getattr(torch, name) for name in args.dtypes):
            rates = ceilings(device, dtype)
            models = build(config, device=device, dtype=dtype)
            errors = compare(*models, config, device=device, dtype=dtype)
            sizes = [(batch, side) for batch in args.batch for side in args.sides]
            for batch, side in sizes:
                inputs = draw_inputs(config, batch=batch, side=side, device=device, dtype=dtype)
                times = measure(*models, inputs, args.repeats, compiled=args.compiled)
                flops = count_flops(config, batch=batch, side=side)
                moved = sum(weight.nbytes for weight in models[0].parameters())
                row = {"dtype": str(dtype).removeprefix("torch."), "batch": batch, "side": side, **errors}
                rows.append(row | summarise(times, floor_seconds(flops, moved, rates)))
                print(rows[-1], flush=True)
            rows += measure_block(models[0], args.block_sides, args.repeats, device=device, dtype=dtype)
    result = {"benchmark": f"forward of {args.model} beside diffusers", **describe(device), "results": rows}
    print(write_result(result, f"dit-{args.model}", args.out))


def compare(
    ours: SanaTransformer,
    theirs: SanaTransformer2DModel,
    config: SanaConfig,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, float]:
    """Returns both errors against diffusers in float32 with the same rounded weights; stops if ours is the larger."""
    inputs = draw_inputs(config, batch=1, side=16, device=device, dtype=dtype)
    with ops.use(implementation(device)):
        outputs = ours(**inputs), call_diffusers(theirs, inputs)
    oracle = copy.deepcopy(theirs).float()
    exact = call_diffusers(oracle, {name: x.float() for name, x in inputs.items()})
    errors = [relative_error(output, exact) for output in outputs]
    check_errors(*errors, dtype)
    return {"error_ours": errors[0], "error_diffusers": errors[1]}


def implementation(device: torch.device) -> Implementation:
    """Returns what runs fastest there."""
    return "fused" if device.type == "cuda" else "reference"


def measure(
    ours: SanaTransformer,
    theirs: SanaTransformer2DModel,
    inputs: dict[str, Tensor],
    repeats: int,
    *,
    compiled: bool,
) -> dict[str, Times]:
    """Returns the times of our forward, plain and as a CUDA graph, and of diffusers', plain and compiled."""
    device = inputs["latents"].device

    def run() -> None:
        with ops.use(implementation(device)):
            ours(**inputs)

    contenders: dict[str, Contender] = {"ours": run}
    if device.type == "cuda":
        contenders["ours_as_a_graph"] = cuda_graph(run)
    contenders["diffusers"] = partial(call_diffusers, theirs, inputs)
    if compiled:
        contenders["diffusers_compiled"] = partial(call_diffusers, torch.compile(theirs), inputs)
    return interleaved(contenders, repeats=repeats, device=device)


def summarise(times: dict[str, Times], floor: float) -> dict[str, Any]:
    """Returns medians, ratios to our fastest, and the distance of that to the floor."""
    best = min((name for name in times if name.startswith("ours")), key=lambda name: times[name].median)
    row: dict[str, Any] = {f"seconds_{name}": time.median for name, time in times.items()}
    others = {name: time for name, time in times.items() if not name.startswith("ours")}
    row |= {f"speedup_over_{name}": time.over(times[best]) for name, time in others.items()}
    return row | {"floor_seconds": floor, "over_floor": times[best].median / floor}


def measure_block(
    model: SanaTransformer, sides: list[int], repeats: int, *, device: torch.device, dtype: torch.dtype
) -> list[dict[str, Any]]:
    """Returns the time of one block per number of tokens: linear attention makes it grow as they do."""
    config, rows = model.config, []
    block = model.blocks[0]
    for side in sides:
        x = torch.randn(1, side**2, config.width, device=device, dtype=dtype)
        caption = torch.randn(1, CAPTION_TOKENS, config.width, device=device, dtype=dtype)
        modulation = torch.randn(1, 6, config.width, device=device, dtype=dtype)

        def run(x: Tensor = x, caption: Tensor = caption, modulation: Tensor = modulation, side: int = side) -> None:
            with ops.use(implementation(device)):
                block(x, modulation, caption, None, height=side, width=side)

        seconds = interleaved({"block": run}, repeats=repeats, device=device)["block"].median
        rows.append({"block_side": side, "tokens": side**2, "seconds": seconds, "ns_a_token": 1e9 * seconds / side**2})
        print(rows[-1], flush=True)
    return rows


if __name__ == "__main__":
    main()
