"""DC-AE beside diffusers' AutoencoderDC with the same weights: `python -m benchmarks.autoencoder --device cuda`."""

import argparse
import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.floors import count_autoencoder
from benchmarks.gate import check_errors, pass_tests, relative_error
from benchmarks.kernels import AUTOENCODER_KERNELS, check_kernels, fastest
from benchmarks.machine import add_row, ceilings, describe, floor_seconds
from benchmarks.references import HAS_DIFFUSERS, REFERENCE
from benchmarks.timing import Contender, cuda_graph, interleaved, summarise
from sana_ae import DC_AE_F32C32_SANA, DCAE, DCAEConfig
from sana_ae.weights import to_diffusers

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
    parser.add_argument("--no-tests", action="store_true", help="when they have just passed")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    device, config = torch.device(args.device), DC_AE_F32C32_SANA
    if device.type == "cuda" and not args.no_tests:
        pass_tests(device)
    if args.narrow:
        config = replace(config, encoder_block_out_channels=NARROW, decoder_block_out_channels=NARROW)
    what = "DC-AE at a quarter of its width" if args.narrow else "DC-AE"
    result = {"benchmark": f"{what} beside diffusers", **describe(device), "reference": REFERENCE}
    result |= {"config": config.to_dict(), "batch": args.batch}
    name = "-".join(map(str, ("ae-narrow" if args.narrow else "ae", *args.dtypes, *args.pixels, "batch", args.batch)))
    with torch.inference_mode():
        for dtype in (getattr(torch, name) for name in args.dtypes):
            rates, models = ceilings(device, dtype), build(config, device=device, dtype=dtype)
            for direction in ("decode", "encode"):
                errors = compare(*models, direction)
                for pixels in args.pixels:
                    x = draw(config, direction, batch=args.batch, pixels=pixels, device=device, dtype=dtype)
                    row = {"dtype": str(dtype).removeprefix("torch."), "direction": direction, "pixels": pixels}
                    row |= errors | measure(*models, x, direction, args.repeats, rates=rates, compiled=args.compiled)
                    add_row(result, row, name, args.out)


def build(config: DCAEConfig, *, device: torch.device, dtype: torch.dtype) -> tuple[DCAE, Any]:
    """Returns ours with random weights, its norms off the values they start with, and diffusers' with the same."""
    torch.manual_seed(0)
    with torch.device(device):
        ours = DCAE(config).eval()
    for name, parameter in ours.named_parameters():
        if "norm" in name:
            parameter.uniform_(0.5, 1.5)
    ours = ours.to(dtype)
    return ours, build_diffusers(ours) if HAS_DIFFUSERS else None


def build_diffusers(ours: DCAE) -> Any:
    """Returns diffusers' model with a copy of our weights."""
    from diffusers import AutoencoderDC
    from diffusers.utils import logging

    logging.set_verbosity_error()  # it warns at every change of dtype
    weight = next(ours.parameters())
    theirs = AutoencoderDC(**ours.config.to_dict()).eval().to(weight.device, weight.dtype)
    theirs.load_state_dict(to_diffusers(ours.state_dict()))
    return theirs


def draw(
    config: DCAEConfig, direction: str, *, batch: int, pixels: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Returns latents or an image."""
    side = pixels // config.compression
    shape = (batch, config.latent_channels, side, side) if direction == "decode" else (batch, 3, pixels, pixels)
    generator = torch.Generator(device).manual_seed(0)
    return torch.randn(shape, generator=generator, device=device, dtype=dtype)


def run_reference(model: Any, x: Tensor, direction: str) -> Tensor:
    """Returns what diffusers' model makes of latents or images, or ours in plain PyTorch where that is not there."""
    if isinstance(model, DCAE):
        return model.decode(x) if direction == "decode" else model.encode(x)
    output: Tensor = model.decode(x).sample if direction == "decode" else model.encode(x).latent
    return output


def run_ours(model: DCAE, x: Tensor, direction: str) -> Tensor:
    """Returns what our model makes of them, on a GPU with its kernels."""
    with fastest(x.device):
        return model.decode(x) if direction == "decode" else model.encode(x)


def compare(ours: DCAE, theirs: Any, direction: str) -> dict[str, float]:
    """Returns both errors against the reference in float32 with the same rounded weights; stops if ours is larger."""
    weight, reference = next(ours.parameters()), ours if theirs is None else theirs
    x = draw(ours.config, direction, batch=1, pixels=CHECKED_PIXELS, device=weight.device, dtype=weight.dtype)
    check_kernels(partial(run_ours, ours, x, direction), AUTOENCODER_KERNELS, weight.device)
    exact = run_reference(copy.deepcopy(reference).float(), x.float(), direction)
    errors = [relative_error(run_ours(ours, x, direction), exact)]
    errors.append(relative_error(run_reference(reference, x, direction), exact))
    check_errors(errors[0], errors[1], weight.dtype)
    return {"error_ours": errors[0], "error_reference": errors[1]}


def measure(
    ours: DCAE, theirs: Any, x: Tensor, direction: str, repeats: int, *, rates: dict[str, float], compiled: bool
) -> dict[str, Any]:
    """Returns medians, ratios to our fastest, and the distance of that to the floor of its operations."""
    plain = partial(run_ours, ours, x, direction)
    contenders: dict[str, Contender] = {"ours": plain}
    if x.is_cuda:
        contenders["ours_as_a_graph"] = cuda_graph(plain)
    if theirs is not None:
        contenders["diffusers"] = partial(run_reference, theirs, x, direction)
    if theirs is not None and compiled:
        their_compiled = copy.deepcopy(theirs)
        their_compiled.encoder, their_compiled.decoder = torch.compile(theirs.encoder), torch.compile(theirs.decoder)
        contenders["diffusers_compiled"] = partial(run_reference, their_compiled, x, direction)
    times = interleaved(contenders, repeats=repeats, device=x.device)
    floor = floor_seconds(count_autoencoder(ours.config, x.shape, direction), 2 * x.nbytes, rates)
    return summarise(times, floor)


if __name__ == "__main__":
    main()
