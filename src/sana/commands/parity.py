"""sana parity: whether a checkpoint gives diffusers' pictures here, on this machine and with these versions."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from sana.commands.drawing_options import parsed_dtype, parsed_kernels, parsed_size
from sana.commands.messages import messages


def parity(
    model: Annotated[
        str, typer.Argument(help='Pipeline folder, Hub id, name that `sana list` shows, or "embedded".')
    ] = "embedded",
    prompts: Annotated[
        list[str] | None, typer.Option("--prompt", help="What to draw; may be repeated. Two of ours if left out.")
    ] = None,
    number: Annotated[int, typer.Option("-n", min=1, help="Pictures per prompt: seeds 0 .. n-1.")] = 1,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Pixels, such as 1024x768.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps.")] = None,
    cfg: Annotated[float | None, typer.Option(help="Guidance scale.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")] = None,
    variant: Annotated[
        str | None, typer.Option(help="Of the files that diffusers is to read, such as fp16 or bf16.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Such as cuda, cuda:1, mps or cpu.")] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    kernels: Annotated[str | None, typer.Option(help="reference (PyTorch), or fused: Triton on a GPU.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE.json", help="Write it for `sana publish --parity`.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Draw the same pictures with diffusers, which has to be installed, and say how far they are apart."""
    with messages():
        width, height = parsed_size(size)
        torch_dtype, kind = parsed_dtype(dtype), parsed_kernels(kernels)
        from sana.diffusers_comparison import compare_with_diffusers
        from sana.pruning_calibration import calibration_prompts
        from sana_scale.files import write_json

        found = compare_with_diffusers(
            model,
            prompts or calibration_prompts(model)[:2],
            seeds=range(number),
            height=height,
            width=width,
            steps=steps,
            guidance_scale=cfg,
            revision=revision,
            variant=variant,
            device=device,
            dtype=torch_dtype,
            kernels=kind,
            progress=progress,
        )
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            write_json(out, dataclasses.asdict(found))
        print(json.dumps(dataclasses.asdict(found), indent=2) if as_json else found.in_words)
