"""sana parity: whether a checkpoint gives diffusers' pictures here, on this machine and with these versions."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from sana.choices import DtypeName
from sana.commands.drawing_options import CfgOption, KernelsOption, SizeOption, StepsOption, parsed_dtype, parsed_size
from sana.commands.file_checks import check_output
from sana.commands.messages import messages
from sana.commands.options import MODEL_HELP, DeviceOption, JsonOption, ProgressOption, RevisionOption


def parity(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)] = "embedded",
    prompts: Annotated[
        list[str] | None,
        typer.Option("--prompt", help="What to draw; may be repeated. Two prompts of ours if left out."),
    ] = None,
    number: Annotated[int, typer.Option("-n", min=1, help="Images per prompt, with seeds 0 .. n-1.")] = 1,
    size: SizeOption = None,
    steps: StepsOption = None,
    cfg: CfgOption = None,
    revision: RevisionOption = None,
    variant: Annotated[
        str | None, typer.Option(help="Variant of the files that diffusers reads, such as fp16 or bf16.")
    ] = None,
    device: DeviceOption = None,
    dtype: Annotated[DtypeName, typer.Option(help="The dtype of both transformers.")] = "float32",
    kernels: KernelsOption = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Write the result here, for `sana publish --parity`.")
    ] = None,
    as_json: JsonOption = False,
    progress: ProgressOption = True,
) -> None:
    """Draw the same images with diffusers, which must be installed, and measure how much they differ."""
    with messages(progress=progress):
        width, height = parsed_size(size)
        if out is not None:
            check_output(out.parent, out)
            if out.exists() and not out.is_file():
                raise ValueError(f"--out is {out}, which is not a file: give the name of a .json")
        from sana.commands.drawing_checks import check_size, warn_of_kernels
        from sana.diffusers_comparison import compare_with_diffusers
        from sana.pruning.calibration import calibration_prompts
        from sana_scale.files import write_json

        warn_of_kernels(kernels, device)
        check_size(model, width, height, revision=revision)
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
            dtype=parsed_dtype(dtype),
            kernels=kernels,
            progress=progress,
        )
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            write_json(out, dataclasses.asdict(found))
        print(json.dumps(dataclasses.asdict(found), indent=2) if as_json else found.in_words)
