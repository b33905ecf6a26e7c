"""Resolution bins: the sizes a public checkpoint was trained at, and how another size is made from one of them."""

import torch.nn.functional as F
from torch import Tensor

# (height, width) in sixteenths of the checkpoint's nominal side, by rising ratio: PixArt's tables, which SANA uses.
_UP_TO_1024 = (
    *((8, 32), (8, 29), (9, 28), (9, 27), (9, 26), (10, 25), (10, 24), (11, 23), (11, 22), (11, 21), (12, 21)),
    *((12, 20), (13, 19), (13, 18), (14, 18), (14, 17), (15, 17), (15, 16), (16, 16), (16, 15), (17, 15), (17, 14)),
    *((18, 14), (18, 13), (19, 13), (20, 12), (21, 12), (22, 11), (23, 11), (24, 10), (25, 10), (27, 9), (32, 8)),
)
_FROM_2048 = tuple(
    sorted(
        {*_UP_TO_1024, (8, 31), (8, 30), (26, 9), (28, 9), (29, 8), (30, 8), (31, 8)},
        key=lambda sides: sides[0] / sides[1],
    )
)

# Latent cells per side of the checkpoint (`sample_size`) -> its bins.
_BINS = {16: _UP_TO_1024, 32: _UP_TO_1024, 64: _FROM_2048, 128: _FROM_2048}


def resolution_bins(sample_size: int) -> list[tuple[int, int]] | None:
    """The (height, width) in pixels that a checkpoint of `sample_size` was trained at; None for a size not public."""
    bins = _BINS.get(sample_size)
    return None if bins is None else [(2 * sample_size * high, 2 * sample_size * wide) for high, wide in bins]


def nearest_bin(height: int, width: int, bins: list[tuple[int, int]]) -> tuple[int, int]:
    """The bin of the nearest aspect ratio, ratios being compared at two decimals as the published tables name them."""
    return min(bins, key=lambda sides: abs(round(sides[0] / sides[1], 2) - height / width))


def resize_and_crop(images: Tensor, height: int, width: int) -> Tensor:
    """Scale images (B, C, H, W) until they cover height x width, bilinearly, and cut the centre out."""
    if images.shape[2:] == (height, width):
        return images
    scale = max(height / images.shape[2], width / images.shape[3])
    covering = (int(images.shape[2] * scale), int(images.shape[3] * scale))
    images = F.interpolate(images, size=covering, mode="bilinear", align_corners=False)
    top, left = (covering[0] - height) // 2, (covering[1] - width) // 2
    return images[:, :, top : top + height, left : left + width]
