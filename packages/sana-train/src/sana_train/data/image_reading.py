"""Images from untrusted bytes: bounded before they are decoded, upright, in RGB, cut to a bucket."""

import io
import struct
import warnings
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sana_train.data.bad_samples import BadSampleError, Reason

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP")  # nothing else is tried: each decoder is a surface of its own
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
MAX_PIXELS = 2**27  # 134 megapixels, 400 MB in RGB: eight times the largest bucket of 4K
MAX_BYTES = 2**28
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error)  # what Pillow raises for it
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)  # EXIF's tag, and its values that exchange height and width


def image_size(content: bytes) -> tuple[int, int]:
    """The (height, width) that an image has once it is upright, from its header alone.

    Raises:
        BadSampleError: it is not an image of `FORMATS`, or it is too large.
    """
    with _opened(content) as image:
        try:
            # Pillow would decode a PNG to look for EXIF behind its pixels.
            looked_into = image.format != "PNG" or "exif" in image.info
            turned = looked_into and image.getexif().get(_ORIENTATION) in _TURNED
        except _DAMAGED as error:
            raise BadSampleError(Reason.TRUNCATED, str(error)) from error
        return (image.width, image.height) if turned else (image.height, image.width)


def read_image(content: bytes) -> "Image.Image":
    """The whole image in RGB, upright, on white where it is transparent; of an animation the first picture.

    Raises:
        BadSampleError: it is not an image of `FORMATS`, or it is too large, damaged or cut short.
    """
    from PIL import Image, ImageOps

    with _opened(content) as image:
        try:
            image.load()
            upright = ImageOps.exif_transpose(image)
        except (*_DAMAGED, Image.DecompressionBombError) as error:
            raise BadSampleError(Reason.TRUNCATED, str(error)) from error
        return _rgb(upright)


def fitted(image: "Image.Image", height: int, width: int) -> Tensor:
    """An image cut around its centre to the ratio of height x width and scaled to it: (3, H, W) in [-1, 1]."""
    from PIL import Image

    box = _cut(image.size, height, width)
    resized = image.resize((width, height), Image.Resampling.BICUBIC, box=box)
    pixels = torch.from_numpy(np.array(resized))  # (H, W, 3)
    return pixels.permute(2, 0, 1).float() / 127.5 - 1


def _cut(size: tuple[int, int], height: int, width: int) -> tuple[float, float, float, float]:
    """The part of an image (width, height) with the ratio of height x width: left, top, right and bottom.

    One axis is whole, in integers. The other is a quotient that cannot round to more than the image has: Pillow refuses
    a part that begins or ends outside by 1e-14.
    """
    wide, high = size
    if wide * height > high * width:
        kept = high * width / height
        return (wide - kept) / 2, 0, (wide + kept) / 2, high
    kept = wide * height / width
    return 0, (high - kept) / 2, wide, (high + kept) / 2


def _opened(content: bytes) -> "Image.Image":
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise ImportError("reading images needs Pillow: pip install 'sana-train[data]'") from error

    if len(content) > MAX_BYTES:
        raise BadSampleError(Reason.TOO_LARGE, f"it has {len(content):,} bytes, and at most {MAX_BYTES:,} are read")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own bound comes next
            image = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise BadSampleError(Reason.NOT_AN_IMAGE, f"its {len(content):,} bytes are not {_FORMATS_NAMED}") from error
    except Image.DecompressionBombError as error:
        raise BadSampleError(Reason.TOO_LARGE, str(error)) from error
    except _DAMAGED as error:
        raise BadSampleError(Reason.TRUNCATED, str(error)) from error
    if image.width * image.height > MAX_PIXELS:
        size = f"it has {image.width}x{image.height} pixels"
        raise BadSampleError(Reason.TOO_LARGE, f"{size}, and at most {MAX_PIXELS:,} are decoded")
    return image


_FORMATS_NAMED = ", ".join(FORMATS[:-1]) + f" or {FORMATS[-1]}"


def _rgb(image: "Image.Image") -> "Image.Image":
    from PIL import Image

    if image.mode.startswith("I;16"):  # Pillow would clip what is above 255
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if "A" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
