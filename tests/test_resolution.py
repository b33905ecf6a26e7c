import pytest
import torch
from diffusers.image_processor import PixArtImageProcessor
from diffusers.pipelines.pixart_alpha.pipeline_pixart_alpha import ASPECT_RATIO_512_BIN, ASPECT_RATIO_1024_BIN
from diffusers.pipelines.pixart_alpha.pipeline_pixart_sigma import ASPECT_RATIO_2048_BIN
from diffusers.pipelines.sana.pipeline_sana import ASPECT_RATIO_4096_BIN

from sana.pixels import resize_and_crop
from sana.resolution import nearest_bin, resolution_bins

TABLES = {16: ASPECT_RATIO_512_BIN, 32: ASPECT_RATIO_1024_BIN, 64: ASPECT_RATIO_2048_BIN, 128: ASPECT_RATIO_4096_BIN}


@pytest.mark.parametrize("sample_size", TABLES)
def test_bins_are_those_of_diffusers(sample_size):
    assert resolution_bins(sample_size) == [(int(h), int(w)) for h, w in TABLES[sample_size].values()]


@pytest.mark.parametrize("sample_size", TABLES)
def test_every_ratio_finds_the_bin_diffusers_finds(sample_size):
    bins = resolution_bins(sample_size)
    for height in range(256, 2048, 37):
        expected = PixArtImageProcessor.classify_height_width_bin(height, 1000, TABLES[sample_size])
        assert nearest_bin(height, 1000, bins) == expected


@pytest.mark.parametrize(("height", "width"), [(40, 64), (64, 40), (100, 33), (32, 48)])
def test_resizing_equals_diffusers(height, width):
    images = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    expected = PixArtImageProcessor.resize_and_crop_tensor(images, width, height)
    torch.testing.assert_close(resize_and_crop(images, height, width), expected, rtol=0, atol=0)


def test_every_size_comes_out_as_asked():
    bins = resolution_bins(16)
    for height in range(64, 1024, 40):
        for width in range(64, 1024, 24):
            images = torch.empty((1, 1, *nearest_bin(height, width, bins)), device="meta")
            assert resize_and_crop(images, height, width).shape[2:] == (height, width)


def test_other_sample_sizes_have_no_bins():
    assert resolution_bins(4) is None
