"""Time of one transformer forward beside diffusers' with the same weights: `python forward.py --out result.json`.

Both models run in turn in one process, so that whatever else the machine does meets both. Nothing is timed unless
the outputs agree: within 1e-5 in float32, and in bfloat16 with an error, against diffusers in float32 with the same
rounded weights, that is not above diffusers' own.
"""

import argparse
import copy
import functools
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import SanaTransformer2DModel
from torch import Tensor

from sana_dit import SanaConfig, SanaTransformer, __version__
from sana_dit.diffusers_config import to_diffusers_config
from sana_dit.weights import read_names

CONFIG = SanaConfig(
    num_layers=8,
    num_attention_heads=16,
    num_cross_attention_heads=8,
    cross_attention_head_dim=64,
    qk_norm=True,
)
SIDE = 32
CAPTION_TOKENS = 300
Forward = Callable[[], Tensor]


def main() -> None:
    """Measures both dtypes and writes or prints the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    result = {**describe(args.device), "batch": args.batch, "repeats": args.repeats}
    with torch.inference_mode():
        result["results"] = measure(args.batch, args.repeats, torch.device(args.device))
    text = json.dumps(result, indent=2) + "\n"
    print(text, end="")
    if args.out:
        args.out.write_text(text, encoding="utf-8")


def measure(batch: int, repeats: int, device: torch.device) -> list[dict[str, Any]]:
    """Returns times and ratio per dtype, after the outputs have been compared."""
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        ours, theirs, oracle = build(dtype, device)
        inputs = draw(batch, dtype, device)
        exact = call_diffusers(oracle, {name: x.float() for name, x in inputs.items()})()
        forwards = functools.partial(ours, **inputs), call_diffusers(theirs, inputs)
        errors = [relative_error(forward(), exact) for forward in forwards]
        check(dtype, *errors)
        row = {"dtype": str(dtype).removeprefix("torch."), **compare(*forwards, repeats, device)}
        rows.append(row | {"error_ours": errors[0], "error_diffusers": errors[1]})
    return rows


def build(
    dtype: torch.dtype, device: torch.device
) -> tuple[SanaTransformer, SanaTransformer2DModel, SanaTransformer2DModel]:
    """Returns our model, diffusers' and diffusers' in float32, with the same weights, off the ones they start with."""
    torch.manual_seed(0)
    fields = to_diffusers_config(CONFIG, CONFIG.num_layers)
    del fields["_class_name"]
    theirs = SanaTransformer2DModel(**fields).eval().to(device)
    for parameter in theirs.parameters():
        parameter.add_(0.02 * torch.randn_like(parameter))
        parameter.data = parameter.data.to(dtype)
    ours = SanaTransformer(CONFIG).eval().to(device, dtype)
    ours.load_state_dict(read_names(theirs.state_dict()).weights)
    return ours, theirs, copy.deepcopy(theirs).float()


def draw(batch: int, dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    """Returns latents, timestep, caption and a mask in which every caption token counts."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(batch, CONFIG.in_channels, SIDE, SIDE, generator=generator)
    caption = torch.randn(batch, CAPTION_TOKENS, CONFIG.caption_channels, generator=generator)
    return {
        "latents": latents.to(device, dtype),
        "timestep": torch.full((batch,), 500.0, device=device),
        "caption": caption.to(device, dtype),
        "caption_mask": torch.ones(batch, CAPTION_TOKENS, device=device),
    }


def call_diffusers(model: SanaTransformer2DModel, inputs: dict[str, Tensor]) -> Forward:
    """Returns a forward of diffusers' model on our inputs."""
    return lambda: model(
        inputs["latents"],
        encoder_hidden_states=inputs["caption"],
        timestep=inputs["timestep"],
        encoder_attention_mask=inputs["caption_mask"],
        return_dict=False,
    )[0]


def relative_error(actual: Tensor, exact: Tensor) -> float:
    """Returns the mean error over the mean size."""
    return ((actual.float() - exact).abs().mean() / exact.abs().mean()).item()


def check(dtype: torch.dtype, error: float, their_error: float) -> None:
    """Stops the benchmark if our output is off."""
    allowed = 1e-5 if dtype == torch.float32 else their_error
    if not error <= allowed:
        raise SystemExit(f"{dtype}: the output is off by {error:.2e}, allowed is {allowed:.2e}; nothing was timed")


def compare(ours: Forward, theirs: Forward, repeats: int, device: torch.device) -> dict[str, float]:
    """Returns the median seconds of both and the median of their ratio over pairs of runs."""
    for forward in (ours, theirs):
        seconds(forward, device)
    pairs = [(seconds(ours, device), seconds(theirs, device)) for _ in range(repeats)]
    return {
        "seconds_ours": statistics.median(pair[0] for pair in pairs),
        "seconds_diffusers": statistics.median(pair[1] for pair in pairs),
        "speedup": statistics.median(theirs / ours for ours, theirs in pairs),
    }


def seconds(forward: Forward, device: torch.device) -> float:
    """Returns the wall time of one forward."""
    start = time.perf_counter()
    forward()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def describe(device: str) -> dict[str, Any]:
    """Returns what the numbers depend on."""
    return {
        "benchmark": "sana-dit forward against diffusers",
        "model": f"width {CONFIG.width}, {CONFIG.num_layers} layers, q and k normed, {SIDE}x{SIDE} tokens, "
        f"{CAPTION_TOKENS} of text",
        "sana_dit": __version__,
        "diffusers": diffusers.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if device == "cuda" else cpu_name(),
        "threads": torch.get_num_threads(),
    }


def cpu_name() -> str:
    """Returns the processor's name as the kernel reports it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
