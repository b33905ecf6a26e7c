"""Images to pixels as mmdetection 2 shows them to Mask2Former: OpenCV's resize, grey padding, ImageNet's scale."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

# The pipeline of GenEval's detector: longer side up to 1333, shorter up to 800, padded with 128 to multiples of 32.
LONG_SIDE, SHORT_SIDE = 1333, 800
PADDING, DIVISOR = 128, 32
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)

# OpenCV interpolates bytes in fixed point, with weights of 11 bits.
_WEIGHT = 2048

Pixels = NDArray[np.uint8]


def resized(image: Image.Image) -> Pixels:
    """An RGB image, its sides in proportion, as the detector sees it: (height, width, 3)."""
    width, height = image.size
    scale = min(LONG_SIDE / max(width, height), SHORT_SIDE / min(width, height))
    return opencv_bilinear(np.asarray(image), max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5)))


def padded_size(pixels: Pixels) -> tuple[int, int]:
    """Height and width of an image with its padding."""
    height, width = (-(-side // DIVISOR) * DIVISOR for side in pixels.shape[:2])
    return height, width


def normalized(images: Sequence[Pixels]) -> Tensor:
    """Resized images of one padded size as one batch (B, 3, H, W), float32."""
    height, width = padded_size(images[0])
    batch = np.full((len(images), height, width, 3), PADDING, dtype=np.uint8)
    for canvas, pixels in zip(batch, images, strict=True):
        canvas[: pixels.shape[0], : pixels.shape[1]] = pixels
    x = torch.from_numpy(batch).permute(0, 3, 1, 2).float()  # (B, 3, H, W)
    return (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def opencv_bilinear(pixels: Pixels, height: int, width: int) -> Pixels:
    """What cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR) gives, bit for bit, without OpenCV.

    A half pixel is the centre of the first one, there is no antialiasing, and halving both sides is the mean of four.
    """
    if pixels.shape[:2] == (2 * height, 2 * width):
        quads = pixels.reshape(height, 2, width, 2, -1).astype(np.int32).sum(axis=(1, 3))
        return np.asarray((quads + 2) >> 2, dtype=np.uint8)
    left, right, x_weights = _taps(pixels.shape[1], width)
    # Beyond the first and the last column OpenCV takes that one alone; beyond rows it adds one to itself, and rounds.
    inside = (left >= 0) & (right < pixels.shape[1])
    x_weights = np.where(inside, x_weights, np.array([[_WEIGHT], [0]]))
    top, bottom, y_weights = _taps(pixels.shape[0], height)
    columns = [np.clip(index, 0, pixels.shape[1] - 1) for index in (left, right)]
    rows = [np.clip(index, 0, pixels.shape[0] - 1) for index in (top, bottom)]
    taps = (
        pixels[:, index].astype(np.int32) * weight[:, None] for index, weight in zip(columns, x_weights, strict=True)
    )
    across = np.add(*taps)
    down = [((across[index] >> 4) * weight[:, None, None]) >> 16 for index, weight in zip(rows, y_weights, strict=True)]
    return np.asarray(((down[0] + down[1] + 2) >> 2).clip(0, 255), dtype=np.uint8)


def _taps(source: int, target: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]:
    """The two neighbours of every target pixel along one side, maybe outside, and their weights (2, target)."""
    centres = ((np.arange(target) + 0.5) * (source / target) - 0.5).astype(np.float32)
    first = np.floor(centres).astype(np.int64)
    share = centres - first.astype(np.float32)
    weights = np.rint(np.stack([np.float32(1) - share, share]) * np.float32(_WEIGHT)).astype(np.int32)
    return first, first + 1, weights
