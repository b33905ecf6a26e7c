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
from diffusers import SanaTransformer2DModel
from torch import Tensor

from benchmarks.denoiser import implementation
from benchmarks.gate import check_errors, relative_error
from benchmarks.machine import describe, write_result
from benchmarks.references import CAPTION_TOKENS, TRANSFORMERS, build, call_diffusers, draw_inputs
from benchmarks.timing import Contender, interleaved
from sana_dit import Captions, SanaConfig, SanaTransformer, StepGraphs, guided_velocity, ops
from sana_dit.diffusers_config import to_diffusers_config
from sana_dit.weights import read_names

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
    device, rows = torch.device(args.device), []
    with torch.inference_mode():
        for dtype in (getattr(torch, name) for name in args.dtypes):
            shallow = replace(TRANSFORMERS[args.model], num_layers=CHECKED_LAYERS)
            errors = compare(*build(shallow, device=device, dtype=dtype), words=args.words)
            models = build_sharing(TRANSFORMERS[args.model], device=device, dtype=dtype)
            for side in args.sides:
                row = errors | measure(*models, side=side, words=args.words, repeats=args.repeats)
                rows.append({"dtype": str(dtype).removeprefix("torch."), "side": side, "words": args.words} | row)
                print(rows[-1], flush=True)
            del models
    result = {"benchmark": f"guided step of {args.model} beside diffusers", **describe(device), "results": rows}
    print(write_result(result, f"guided-step-{args.model}", args.out))


def build_sharing(
    config: SanaConfig, *, device: torch.device, dtype: torch.dtype
) -> tuple[SanaTransformer, SanaTransformer2DModel]:
    """Returns our model and diffusers' over one copy of random weights."""
    fields: dict[str, Any] = to_diffusers_config(config, config.num_layers)
    fields.pop("_class_name")
    torch.manual_seed(0)
    with torch.device(device):
        theirs = SanaTransformer2DModel(**fields).eval().to(dtype)
    with torch.device("meta"):
        ours = SanaTransformer(config).eval()
    ours.load_state_dict(read_names(theirs.state_dict()).weights, assign=True)
    return ours, theirs


def compare(ours: SanaTransformer, theirs: SanaTransformer2DModel, *, words: int) -> dict[str, float]:
    """Returns both errors against diffusers in float32 with the same rounded weights; stops if ours is the larger."""
    inputs = draw(ours, side=16, words=words)
    exact_inputs = {name: x.float() if x.is_floating_point() else x for name, x in inputs.items()}
    exact = guide(call_diffusers(copy.deepcopy(theirs).float(), exact_inputs))
    outputs = guided_step(ours, inputs)(), guide(call_diffusers(theirs, inputs))
    errors = [relative_error(output, exact) for output in outputs]
    check_errors(*errors, ours.final.proj.weight.dtype)
    return {"error_ours": errors[0], "error_diffusers": errors[1]}


def measure(
    ours: SanaTransformer, theirs: SanaTransformer2DModel, *, side: int, words: int, repeats: int
) -> dict[str, Any]:
    """Returns times and the ratio."""
    inputs = draw(ours, side=side, words=words)
    device = inputs["latents"].device
    contenders: dict[str, Contender] = {"ours": guided_step(ours, inputs)}
    if device.type == "cuda":
        contenders["ours_as_a_graph"] = guided_step(ours, inputs, StepGraphs(ours))
    contenders["ours_unprepared"] = partial(_plain, ours, inputs)
    contenders["reading_captions"] = partial(ours.prepare, inputs["caption"], inputs["caption_mask"])
    contenders["diffusers"] = lambda: guide(call_diffusers(theirs, inputs))
    times = interleaved(contenders, repeats=repeats, device=device)
    row: dict[str, Any] = {f"seconds_{name}": time.median for name, time in times.items()}
    best = "ours_as_a_graph" if "ours_as_a_graph" in times else "ours"
    return row | {"speedup_over_diffusers": times["diffusers"].over(times[best])}


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
    velocity = guided_velocity(model, captions, negative, scale=SCALE, denoise=denoise)
    x, step = inputs["latents"][:1], velocity.scheduled(inputs["timestep"][:1])

    def run() -> Tensor:
        with ops.use(implementation(x.device)):
            return step(x, 0)

    return run


def guide(velocity: Tensor) -> Tensor:
    """Returns what classifier-free guidance makes of [unconditional, conditional]."""
    u, c = velocity.float().chunk(2)
    return u + SCALE * (c - u)


def _plain(model: SanaTransformer, inputs: dict[str, Tensor]) -> Tensor:
    with ops.use(implementation(inputs["latents"].device)):
        return guide(model(**inputs))


if __name__ == "__main__":
    main()
