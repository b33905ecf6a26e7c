"""Images to tiles: a grid with the image's proportions, and the whole once more in small (NVILA's "dynamic" mode)."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sana_judge.vila.config import VILAConfig


def tile_grid(width: int, height: int, *, size: int, min_tiles: int, max_tiles: int) -> tuple[int, int]:
    """Returns columns and rows of the grid whose proportions are nearest to an image's.

    Among grids of the same proportions the larger one needs an image of more than half the grid's pixels.
    """
    grids = [
        (columns, rows)
        for columns in range(1, max_tiles + 1)
        for rows in range(1, max_tiles + 1)
        if min_tiles <= columns * rows <= max_tiles
    ]
    best, distance = (1, 1), float("inf")
    for columns, rows in sorted(grids, key=lambda grid: grid[0] * grid[1]):
        off = abs(width / height - columns / rows)
        large_enough = width * height > 0.5 * size * size * columns * rows
        if off < distance or (off == distance and large_enough):
            best, distance = (columns, rows), off
    return best


def count_tiles(width: int, height: int, config: VILAConfig, *, max_tiles: int) -> int:
    """Returns how many tiles an image of this size becomes, its thumbnail included."""
    columns, rows = _grid(width, height, config, max_tiles)
    return columns * rows + (columns * rows > 1)


def cut_tiles(image: Image.Image, config: VILAConfig, *, max_tiles: int) -> Tensor:
    """Returns the tiles of an RGB image row by row, then a thumbnail if there are several: (T, 3, S, S), uint8."""
    size = config.tile_size
    columns, rows = _grid(image.width, image.height, config, max_tiles)
    tiles = [_cut(image.resize((columns * size, rows * size)), columns, rows)]
    if columns * rows > 1:
        tiles.append(_cut(image.resize((size, size)), 1, 1))
    return torch.cat(tiles)


def _grid(width: int, height: int, config: VILAConfig, max_tiles: int) -> tuple[int, int]:
    if config.image_aspect_ratio == "resize":
        return 1, 1
    most = min(max_tiles, config.max_tiles)
    return tile_grid(width, height, size=config.tile_size, min_tiles=min(config.min_tiles, most), max_tiles=most)


def _cut(image: Image.Image, columns: int, rows: int) -> Tensor:
    side = image.width // columns
    x = torch.from_numpy(np.array(image))  # (rows * S, columns * S, 3)
    x = x.reshape(rows, side, columns, side, 3).permute(0, 2, 4, 1, 3)  # (rows, columns, 3, S, S)
    return x.reshape(rows * columns, 3, side, side)
