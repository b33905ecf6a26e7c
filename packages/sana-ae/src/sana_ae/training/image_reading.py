"""Image files as training sees them: of known formats, upright, in 8-bit RGB, on white where they are transparent."""

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP")  # whatever a file is called: Pillow would start Ghostscript for an EPS
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error)  # what Pillow raises, SyntaxError for PNG chunks


@contextmanager
def opened(path: Path) -> "Iterator[Image.Image]":
    """The image, not yet decoded."""
    from PIL import Image

    with warnings.catch_warnings(), path.open("rb") as file:
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield Image.open(file, formats=FORMATS)


def bombs() -> tuple[type[Exception], ...]:
    """What Pillow says of images that are larger than it likes."""
    from PIL import Image

    return Image.DecompressionBombWarning, Image.DecompressionBombError


def upright_rgb(image: "Image.Image") -> "Image.Image":
    """The image turned as its EXIF says, in RGB."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits of grey; Pillow would clip what is above 255
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if "A" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
