"""The options of commands that draw, and what their words mean."""

import math
import re
from typing import TYPE_CHECKING, Annotated

import typer

from sana.choices import DtypeName, Kernels, QuantizationName
from sana.commands.options import MODEL_HELP

if TYPE_CHECKING:
    import torch


def _finite(value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number; give one, 1 or less for no guidance.")
    return value


ModelOption = Annotated[str, typer.Option(help=MODEL_HELP)]
LoraOption = Annotated[
    list[str] | None, typer.Option(metavar="REPO[:SCALE]", help="LoRA file, folder or Hub id; may be repeated.")
]
SizeOption = Annotated[str | None, typer.Option(metavar="WxH", help="Size in pixels, such as 1024x768.")]
StepsOption = Annotated[int | None, typer.Option(min=1, help="Number of denoising steps.")]
CfgOption = Annotated[
    float | None,
    typer.Option("--cfg", "--guidance-scale", callback=_finite, help="Guidance scale; 1 or less for no guidance."),
]
NegativeOption = Annotated[str, typer.Option(help="Negative prompt: what the image should not show.")]
DtypeOption = Annotated[
    DtypeName | None, typer.Option(help="The transformer's dtype; the checkpoint's own if left out.")
]
QuantizeOption = Annotated[
    QuantizationName | None, typer.Option(help="Keep weights in 8 or 4 bits; needs bitsandbytes.")
]
KernelsOption = Annotated[
    Kernels | None, typer.Option(help="reference: plain PyTorch; fused: Triton kernels, on a GPU.")
]
OffloadOption = Annotated[bool, typer.Option(help="Keep the caption encoder in CPU memory while drawing.")]
TileOption = Annotated[
    int | None,
    typer.Option(help="Decode in tiles of this many pixels per side, such as 1024: far less memory at 2K and 4K."),
]


def parsed_lora(text: str) -> tuple[str, float]:
    """Split "style.safetensors:0.8"; after a colon, what is not a number is part of the path, as on Windows."""
    source, colon, scale = text.rpartition(":")
    try:
        return (source, float(scale)) if colon else (text, 1.0)
    except ValueError:
        return text, 1.0


def parsed_size(text: str | None) -> tuple[int | None, int | None]:
    """The width and height that --size names."""
    if text is None:
        return None, None
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match:
        raise ValueError(f"--size is {text!r}; give width x height in pixels, such as 1024x768")
    return int(match[1]), int(match[2])


def parsed_dtype(name: DtypeName) -> "torch.dtype":
    """The dtype of that name."""
    import torch

    dtype: torch.dtype = getattr(torch, name)
    return dtype
