from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from sana_judge import NVILA_LITE_2B
from sana_judge.vila.tiling import count_tiles, cut_tiles, tile_grid


@pytest.mark.parametrize(
    ("size", "grid"),
    [
        ((448, 448), (1, 1)),
        ((512, 512), (1, 1)),  # 2x2 needs more than half of its 896 x 896 pixels
        ((634, 634), (2, 2)),
        ((1024, 1024), (3, 3)),
        ((8000, 8000), (3, 3)),
        ((2000, 1000), (4, 2)),
        ((300, 100), (3, 1)),
        ((100, 1200), (1, 12)),
        ((1, 8192), (1, 12)),
    ],
)
def test_the_grid_has_the_images_proportions(size, grid):
    assert tile_grid(*size, size=448, min_tiles=1, max_tiles=12) == grid


@pytest.mark.parametrize(("max_tiles", "tiles"), [(1, 1), (3, 1), (4, 5), (8, 5), (9, 10), (12, 10)])
def test_fewer_tiles_when_capped_and_a_thumbnail_for_several(max_tiles, tiles):
    assert count_tiles(1024, 1024, NVILA_LITE_2B, max_tiles=max_tiles) == tiles
    assert len(cut_tiles(Image.new("RGB", (1024, 1024)), NVILA_LITE_2B, max_tiles=max_tiles)) == tiles


def test_resize_makes_one_tile_of_anything():
    config = replace(NVILA_LITE_2B, image_aspect_ratio="resize")
    assert count_tiles(3000, 1000, config, max_tiles=12) == 1


def test_tiles_are_crops_row_by_row_and_the_whole_in_small():
    config = replace(NVILA_LITE_2B, min_tiles=6, max_tiles=6)
    image = Image.effect_noise((3 * 448, 2 * 448), 90).convert("RGB")
    tiles = cut_tiles(image, config, max_tiles=6)
    boxes = [(448 * x, 448 * y, 448 * x + 448, 448 * y + 448) for y in range(2) for x in range(3)]
    crops = [image.crop(box) for box in boxes] + [image.resize((448, 448))]
    pixels = torch.from_numpy(np.stack([np.asarray(crop) for crop in crops]))
    assert torch.equal(tiles.permute(0, 2, 3, 1), pixels)
