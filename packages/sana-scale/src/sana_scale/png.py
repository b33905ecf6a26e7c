"""Kept images as PNG files: every pixel as it was."""

import os
from pathlib import Path

try:
    from PIL import Image
except ImportError as error:
    raise ImportError("run_dir= keeps images as PNG and needs Pillow: pip install 'sana-scale[images]'") from error

# What PNG holds without loss; of other modes Pillow makes something else, or an error half-way.
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


def check_png(image: object) -> Image.Image:
    """The image, if PNG can hold it.

    Raises:
        TypeError: it is not a Pillow image.
        ValueError: its mode does not fit into PNG.
    """
    if not isinstance(image, Image.Image):
        raise TypeError(f"run_dir= keeps images as PNG, so the sampler has to give PIL images; it gave {type(image)}")
    if image.mode not in MODES:
        raise ValueError(
            f"the mode of an image is {image.mode!r}, which PNG does not hold without loss; it must be one of {MODES}"
        )
    return image


def write_png(path: Path, image: Image.Image) -> None:
    """Write a new file and flush it to the disk."""
    with open(path, "xb") as file:
        image.save(file, format="PNG")
        file.flush()
        os.fsync(file.fileno())


def read_png(path: Path) -> Image.Image:
    """The image, without its file staying open."""
    with Image.open(path, formats=["PNG"]) as image:
        image.load()
        return image.copy()
