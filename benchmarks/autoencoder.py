"""DC-AE beside diffusers' AutoencoderDC with the same weights: `python -m benchmarks.autoencoder --device cuda`."""

import argparse
import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderDC
from diffusers.utils import logging
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gate import check_errors, relative_error
from benchmarks.machine import ceilings, describe, floor_seconds, write_result
from benchmarks.timing import Contender, cuda_graph, interleaved
from sana_ae import DC_AE_F32C32_SANA, DCAE, DCAEConfig
from sana_ae.weights import from_diffusers

NARROW = (32, 64, 128, 128, 256, 256)  # a quarter of the released widths: seconds on a processor
CHECKED_PIXELS = 128


def main() -> None:
    """Checks, measures every size and direction, and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--pixels", type=int, nargs="+", default=[1024])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--narrow", action="store_true", help="a quarter of the released widths")
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16"], choices=("bfloat16", "float32"))
    parser.add_argument("--compiled", action="store_true", help="measure compiled diffusers as well")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    logging.set_verbosity_error()  # it warns at every change of dtype
    device, config = torch.device(args.device), DC_AE_F32C32_SANA
    if args.narrow:
        config = replace(config, encoder_block_out_channels=NARROW, decoder_block_out_channels=NARROW)
    rows = []
    with torch.inference_mode():
        for dtype in (getattr(torch, name) for name in args.dtypes):
            rates, models = ceilings(device, dtype), build(config, device=device, dtype=dtype)
            for direction in ("decode", "encode"):
                errors = compare(*models, direction)
                for pixels in args.pixels:
                    x = draw(config, direction, batch=args.batch, pixels=pixels, device=device, dtype=dtype)
                    row = {"dtype": str(dtype).removeprefix("torch."), "direction": direction, "pixels": pixels}
                    row |= errors | measure(*models, x, direction, args.repeats, rates=rates, compiled=args.compiled)
                    rows.append(row)
                    print(row, flush=True)
    result = {"benchmark": "DC-AE beside diffusers", **describe(device), "config": config.to_dict()}
    print(write_result(result | {"batch": args.batch, "results": rows}, "ae", args.out))


def build(config: DCAEConfig, *, device: torch.device, dtype: torch.dtype) -> tuple[DCAE, AutoencoderDC]:
    """Returns both models with the same random weights, their norms off the values they start with."""
    torch.manual_seed(0)
    with torch.device(device):
        theirs, ours = AutoencoderDC(**config.to_dict()).eval(), DCAE(config).eval()
    for name, parameter in theirs.named_parameters():
        if "norm" in name:
            parameter.uniform_(0.5, 1.5)
    theirs, ours = theirs.to(dtype), ours.to(dtype)
    ours.load_state_dict(from_diffusers(theirs.state_dict()))
    return ours, theirs


def draw(
    config: DCAEConfig, direction: str, *, batch: int, pixels: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Returns latents or an image."""
    side = pixels // config.compression
    shape = (batch, config.latent_channels, side, side) if direction == "decode" else (batch, 3, pixels, pixels)
    generator = torch.Generator(device).manual_seed(0)
    return torch.randn(shape, generator=generator, device=device, dtype=dtype)


def run_theirs(model: Any, x: Tensor, direction: str) -> Tensor:
    """Returns what diffusers' model makes of latents or images."""
    output: Tensor = model.decode(x).sample if direction == "decode" else model.encode(x).latent
    return output


def run_ours(model: DCAE, x: Tensor, direction: str) -> Tensor:
    """Returns what our model makes of them."""
    return model.decode(x) if direction == "decode" else model.encode(x)


def compare(ours: DCAE, theirs: AutoencoderDC, direction: str) -> dict[str, float]:
    """Returns both errors against diffusers in float32 with the same rounded weights; stops if ours is the larger."""
    parameter = next(ours.parameters())
    x = draw(ours.config, direction, batch=1, pixels=CHECKED_PIXELS, device=parameter.device, dtype=parameter.dtype)
    exact = run_theirs(copy.deepcopy(theirs).float(), x.float(), direction)
    errors = [
        relative_error(run(model, x, direction), exact) for run, model in ((run_ours, ours), (run_theirs, theirs))
    ]
    check_errors(*errors, parameter.dtype)
    return {"error_ours": errors[0], "error_diffusers": errors[1]}


def measure(
    ours: DCAE,
    theirs: AutoencoderDC,
    x: Tensor,
    direction: str,
    repeats: int,
    *,
    rates: dict[str, float],
    compiled: bool,
) -> dict[str, Any]:
    """Returns medians, ratios to our fastest, and the distance of that to the floor of its operations."""
    plain = partial(run_ours, ours, x, direction)
    contenders: dict[str, Contender] = {"ours": plain}
    if x.is_cuda:
        contenders["ours_as_a_graph"] = cuda_graph(plain)
    contenders["diffusers"] = partial(run_theirs, theirs, x, direction)
    if compiled:
        their_compiled = copy.deepcopy(theirs)
        their_compiled.encoder, their_compiled.decoder = torch.compile(theirs.encoder), torch.compile(theirs.decoder)
        contenders["diffusers_compiled"] = partial(run_theirs, their_compiled, x, direction)
    times = interleaved(contenders, repeats=repeats, device=x.device)
    best = min((name for name in times if name.startswith("ours")), key=lambda name: times[name].median)
    row: dict[str, Any] = {f"seconds_{name}": time.median for name, time in times.items()}
    row |= {f"speedup_over_{name}": times[name].over(times[best]) for name in times if name.startswith("diffusers")}
    floor = floor_seconds(count_flops(ours.config, x.shape, direction), 2 * x.nbytes, rates)
    return row | {"floor_seconds": floor, "over_floor": times[best].median / floor}


def count_flops(config: DCAEConfig, shape: torch.Size, direction: str) -> int:
    """Returns the operations of one call, counted without weights."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        run_ours(DCAE(config).eval(), torch.empty(shape), direction)
    return int(counter.get_total_flops())


if __name__ == "__main__":
    main()
