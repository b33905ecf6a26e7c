"""Decoding on this machine: sana_ae against diffusers' AutoencoderDC, same weights, same process, alternating calls.

    python packages/sana-ae/benchmarks/decode.py --threads 1 --out results.json

Nothing is timed before both give the same image. Needs diffusers.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch
from diffusers import AutoencoderDC
from diffusers.utils import logging

from sana_ae import DC_AE_F32C32_SANA, DCAE, DCAEConfig
from sana_ae.weights import from_diffusers

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def main() -> None:
    """Measure all combinations of dtype and size, print them, and write them to --out."""
    options = _options()
    torch.set_num_threads(options.threads)
    logging.set_verbosity_error()  # it warns at every change of dtype
    config = _narrow(options.widths)
    theirs = _random_autoencoder(config)
    ours = DCAE(config).eval()
    ours.load_state_dict(from_diffusers(theirs.state_dict()))
    rows = []
    for pixels in options.pixels:
        for name in options.dtypes:
            row = {"pixels": pixels, "dtype": name, **measure(ours, theirs, pixels, DTYPES[name], options.repeats)}
            print(row, flush=True)
            rows.append(row)
    if options.out:
        _write(options.out, {"benchmark": "DC-AE decode", **_surroundings(config, options), "results": rows})


@torch.no_grad()
def measure(
    ours: DCAE, theirs: AutoencoderDC, pixels: int, dtype: torch.dtype, repeats: int
) -> dict[str, float | list[int]]:
    """Median seconds of one decode each, and their ratio: above 1 where ours is faster."""
    side = pixels // ours.config.compression
    z = torch.randn(1, ours.config.latent_channels, side, side, generator=torch.Generator().manual_seed(0))
    exact = theirs.float().decode(z.to(dtype).float()).sample
    ours, theirs, z = ours.to(dtype), theirs.to(dtype), z.to(dtype)
    calls: list[Callable[[], torch.Tensor]] = [lambda: ours.decode(z), lambda: theirs.decode(z).sample]
    errors = [float((call().float() - exact).norm() / exact.norm()) for call in calls]
    _check(errors, dtype)
    seconds: list[list[float]] = [[], []]
    for _ in range(repeats):
        for call, times in zip(calls, seconds, strict=True):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
    medians = [statistics.median(times) for times in seconds]
    return {
        "latent": list(z.shape),
        "sana_ae_seconds": medians[0],
        "diffusers_seconds": medians[1],
        "speedup": medians[1] / medians[0],
        "sana_ae_error": errors[0],
        "diffusers_error": errors[1],
    }


def _check(errors: list[float], dtype: torch.dtype) -> None:
    """Ours has to be the fp32 image of diffusers to 1e-5, in bf16 at least as close to it as diffusers in bf16 is."""
    bound = 1e-5 if dtype == torch.float32 else errors[1]
    if errors[0] > bound:
        raise SystemExit(f"relative error {errors[0]:.2e} in {dtype} is above {bound:.2e}: a speed would mean nothing.")


def _narrow(widths: list[int]) -> DCAEConfig:
    changes = {"encoder_block_out_channels": tuple(widths), "decoder_block_out_channels": tuple(widths)}
    return replace(DC_AE_F32C32_SANA, **changes)


def _random_autoencoder(config: DCAEConfig) -> AutoencoderDC:
    """Random weights, rounded to bf16 so that both dtypes start from the same ones; norms off their first values."""
    torch.manual_seed(0)
    model = AutoencoderDC(**config.to_dict()).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
    return model.bfloat16().float()


def _surroundings(config: DCAEConfig, options: argparse.Namespace) -> dict[str, object]:
    return {
        "versions": {name: version(name) for name in ("sana-ae", "diffusers", "torch")},
        "cpu": _cpu(),
        "threads": options.threads,
        "cores": sorted(os.sched_getaffinity(0)),
        "repeats": options.repeats,
        "config": config.to_dict(),
    }


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def _write(path: Path, report: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pixels", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--widths", type=int, nargs=6, default=[32, 64, 128, 128, 256, 256], help="channels per stage")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="where to write the results as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
