"""An image file or PIL image of any kind as the RGB image that a viewer shows: upright, opaque, of bounded size."""

import hashlib
from os import PathLike
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

ImageLike = Image.Image | str | PathLike[str]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")  # whatever a file is called: Pillow would start Ghostscript for an EPS

MAX_PIXELS = 2**26  # 8192 x 8192, 192 MiB as RGB


def read_image(image: ImageLike) -> Image.Image:
    """Returns an RGB image: turned as its EXIF data says, transparency on white, of 16 bits the upper 8.

    A path is that of a file in one of `FORMATS`; a PIL image may come from anywhere. Of an animated file this is
    the first frame, of an opened animation the current one.

    Raises:
        FileNotFoundError: There is no such file.
        TypeError: It is neither a PIL image nor a path.
        ValueError: It has another format, is damaged or empty, or has more than MAX_PIXELS pixels, which is looked at
            before decoding.
    """
    if not isinstance(image, Image.Image | str | PathLike):
        raise TypeError(f"an image is a {type(image).__name__}; it must be a PIL image or the path of a file")
    if not isinstance(image, Image.Image):
        with _open(Path(image)) as opened:
            return _decode(opened, str(image))
    return _decode(image, "a PIL image")


def hash_image(image: Image.Image) -> str:
    """Returns a hash of the size and pixels of an RGB image, the same whatever file it came from."""
    digest = hashlib.sha256(f"{image.mode} {image.width}x{image.height} ".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def _open(path: Path) -> Image.Image:
    try:
        return Image.open(path, formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # the latter where it is an error
        raise ValueError(f"{path} has more than {MAX_PIXELS} pixels ({error}): make it smaller") from error
    except UnidentifiedImageError as error:
        raise ValueError(
            f"{path} is not an image of a known format ({', '.join(FORMATS)}): convert it to one of them"
        ) from error
    except (OSError, SyntaxError, ValueError) as error:
        if getattr(error, "errno", None):
            raise  # the system's: no such file, no permission
        raise ValueError(f"{path} is damaged ({error}): write it again") from error


def _decode(image: Image.Image, name: str) -> Image.Image:
    width, height = image.size
    if not 0 < width * height <= MAX_PIXELS:
        raise ValueError(f"{name} is {width}x{height}; it must have from 1 to {MAX_PIXELS} pixels")
    try:
        image.load()
        image = ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{name} is damaged ({error}): write it again") from error
    if image.mode.startswith("I"):  # 16 bits of grey: the upper 8, which is what Pillow makes of 16-bit colours
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")
