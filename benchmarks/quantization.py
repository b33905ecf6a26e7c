"""Memory and error of 8 and 4 bit weights beside bfloat16: `python -m benchmarks.quantization`.

The embedded model (transformer and caption encoder, in memory and in the pictures they make) and blocks of the public
widths with random weights. The error is against float32 with the same stored weights, bfloat16's own beside it.
"""

import argparse
import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gate import relative_error
from benchmarks.machine import describe, write_result
from benchmarks.references import TRANSFORMERS, draw_inputs
from sana import SanaPipeline
from sana_dit import Quantization, SanaTransformer, quantize_linears

KINDS: tuple[Quantization | None, ...] = (None, "int8", "nf4")
PROMPTS = ["two red apples left of a cat", "a blue car", "three dogs", "a green star right of a house"]
STEPS = 20


def main() -> None:
    """Measures every model and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--models", nargs="*", default=["0.6b", "1.5-1.6b"], choices=TRANSFORMERS)
    parser.add_argument("--layers", type=int, default=2, help="blocks of each public width; more need more memory")
    parser.add_argument("--side", type=int, default=16, help="of the token grid; 16 is 512 px")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    device = torch.device(args.device)
    rows = measure_embedded(device)
    with torch.inference_mode():
        for name in args.models:
            rows += measure_transformer(name, layers=args.layers, side=args.side, device=device)
    result = {"benchmark": "8 and 4 bit weights beside bfloat16", **describe(device), "results": rows}
    print(write_result(result, "quantization", args.out))


def measure_embedded(device: torch.device) -> list[dict[str, Any]]:
    """Returns sizes, and how far captions and latents of four prompts are from those in float32."""
    exact, rows = _draw(SanaPipeline.embedded(device=device)), []
    for kind in KINDS:
        pipeline = SanaPipeline.from_pretrained("embedded", device=device, dtype=torch.bfloat16, quantize=kind)
        captions, latents = _draw(pipeline)
        row = {
            "model": "embedded",
            "weights": kind or "bfloat16",
            "transformer_bytes": bytes_of(pipeline.transformer),
            "caption_encoder_bytes": bytes_of(pipeline.caption_encoder.text_encoder),
            "error_of_captions": relative_error(captions, exact[0]),
            "error_of_latents": relative_error(latents, exact[1]),
        }
        rows.append(row)
        print(row, flush=True)
    return rows


def measure_transformer(name: str, *, layers: int, side: int, device: torch.device) -> list[dict[str, Any]]:
    """Returns sizes of the first blocks of a public size, and the error of their forward."""
    config, rows = replace(TRANSFORMERS[name], num_layers=layers), []
    torch.manual_seed(0)
    model = SanaTransformer(config).eval().to(device, torch.bfloat16)
    inputs = draw_inputs(config, batch=1, side=side, device=device, dtype=torch.bfloat16)
    exact = copy.deepcopy(model).float()(**{key: x.float() for key, x in inputs.items()})
    for kind in KINDS:
        if kind:
            quantised = copy.deepcopy(model)
            quantize_linears(quantised.blocks, kind, device=device)
        else:
            quantised = model
        velocity = quantised(**inputs)
        row = {
            "model": name,
            "layers": layers,
            "weights": kind or "bfloat16",
            "block_bytes": bytes_of(quantised.blocks),
        }
        rows.append(row | {"error_of_velocity": relative_error(velocity, exact)})
        print(rows[-1], flush=True)
    return rows


def bytes_of(module: nn.Module) -> int:
    """Returns what weights and buffers take up, scales of quantised ones included."""
    tensors = {id(x): x for x in (*module.parameters(), *module.buffers())}
    for weight in module.parameters():
        state = getattr(weight, "quant_state", None)
        for scale in (getattr(weight, "SCB", None), getattr(state, "absmax", None)):
            if isinstance(scale, Tensor):
                tensors[id(scale)] = scale
    for layer in module.modules():
        scale = getattr(getattr(layer, "state", None), "SCB", None)
        if isinstance(scale, Tensor):
            tensors[id(scale)] = scale
    return sum(x.numel() * x.element_size() for x in tensors.values())


def _draw(pipeline: SanaPipeline) -> tuple[Tensor, Tensor]:
    captions, negative = pipeline.encode(PROMPTS, guidance_scale=4.0)
    size, _ = pipeline.sizes(None, None)
    latents = pipeline.denoise(captions, negative, range(len(PROMPTS)), size=size, steps=STEPS, guidance_scale=4.0)
    return captions.embeddings[captions.mask.bool()], latents


if __name__ == "__main__":
    main()
