"""What the words of the drawing commands' options mean."""

import re
from typing import Any


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


def parsed_dtype(name: str | None) -> Any:
    """The dtype that --dtype names."""
    if name is None:
        return None
    import torch

    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in dtypes:
        raise ValueError(f"--dtype is {name!r}; it is one of {', '.join(dtypes)}")
    return dtypes[name]


def parsed_quantization(kind: str | None) -> Any:
    """The kind that --quantize names."""
    if kind not in (None, "int8", "nf4"):
        raise ValueError(f"--quantize is {kind!r}; it is int8 or nf4")
    return kind


def parsed_kernels(kind: str | None) -> Any:
    """The kind that --kernels names."""
    if kind not in (None, "reference", "fused"):
        raise ValueError(f"--kernels is {kind!r}; it is reference or fused")
    return kind
