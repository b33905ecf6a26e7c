"""The options that drawing commands share, and what their words mean."""

import math
import re
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    import torch

# As sana.kernels and sana_dit have them, which take seconds to import.
DtypeName = Literal["float32", "bfloat16", "float16"]
KernelsName = Literal["reference", "fused"]
QuantizationName = Literal["int8", "nf4"]


def _finite(value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no finite number; give one, 1 or less for no guidance.")
    return value


MODEL_HELP = 'Pipeline folder, Hub id, name that `sana list` shows, or "embedded".'

ModelOption = Annotated[str, typer.Option(help=MODEL_HELP)]
RevisionOption = Annotated[str | None, typer.Option(help="Branch, tag or commit of a model on the Hub.")]
LoraOption = Annotated[
    list[str] | None, typer.Option(metavar="REPO[:SCALE]", help="LoRA file, folder or Hub id; may be repeated.")
]
SizeOption = Annotated[str | None, typer.Option(metavar="WxH", help="Pixels, such as 1024x768.")]
StepsOption = Annotated[int | None, typer.Option(min=1, help="Denoising steps.")]
CfgOption = Annotated[
    float | None,
    typer.Option("--cfg", "--guidance-scale", callback=_finite, help="Guidance scale; 1 or less for no guidance."),
]
NegativeOption = Annotated[str, typer.Option(help="What to lead away from.")]
DeviceOption = Annotated[str | None, typer.Option(help="Such as cuda, cuda:1, mps or cpu.")]
DtypeOption = Annotated[DtypeName | None, typer.Option(help="Of the transformer; the checkpoint's own if left out.")]
QuantizeOption = Annotated[QuantizationName | None, typer.Option(help="Weights in 8 or 4 bits.")]
KernelsOption = Annotated[KernelsName | None, typer.Option(help="PyTorch, or fused: Triton on a GPU.")]
OffloadOption = Annotated[bool, typer.Option(help="Keep the caption encoder in CPU memory while drawing.")]
TileOption = Annotated[
    int | None, typer.Option(help="Pixels per side decoded at once, such as 1024: far less memory at 2K and 4K.")
]
ProgressOption = Annotated[bool, typer.Option(help="Show a progress bar.")]


def parsed_lora(text: str) -> tuple[str, float]:
    """Take "style.safetensors:0.8" apart; what is behind a colon and no number, as on Windows, is part of the path."""
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
