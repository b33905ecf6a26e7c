import numpy as np
import pytest
import torch
from PIL import Image

from sana_judge.scorers.pixels import OPENAI_CLIP, SIGLIP


def test_a_square_of_the_right_size_is_only_scaled():
    image = Image.new("RGB", (224, 224), (255, 0, 51))
    expected = [
        (value - mean) / std for value, mean, std in zip((1, 0, 0.2), OPENAI_CLIP.mean, OPENAI_CLIP.std, strict=True)
    ]
    assert OPENAI_CLIP([image])[0, :, 100, 100].tolist() == pytest.approx(expected)


def test_the_middle_of_the_longer_side_is_kept():
    ramp = np.zeros((224, 324, 3), np.uint8)
    ramp[..., 0] = np.minimum(np.arange(324), 255)
    kept = OPENAI_CLIP([Image.fromarray(ramp)])[0, 0, 0] * OPENAI_CLIP.std[0] + OPENAI_CLIP.mean[0]
    assert (kept * 255).round().tolist() == [min(column, 255) for column in range(50, 274)]


# torchvision: the longer side is int(224 * longer / shorter), the margin round((side - 224) / 2), halves to even.
@pytest.mark.parametrize(("width", "left"), [(226, 1), (227, 2), (229, 2), (231, 4)])
def test_half_a_pixel_of_margin_is_rounded_to_even(width, left):
    columns = np.zeros((224, width, 3), np.uint8)
    columns[..., 0] = np.arange(width)
    first = OPENAI_CLIP([Image.fromarray(columns)])[0, 0, 0, 0] * OPENAI_CLIP.std[0] + OPENAI_CLIP.mean[0]
    assert round(float(first) * 255) == left


def test_siglip_squeezes_the_whole_image(pictures):
    expected = np.stack([np.asarray(picture.resize((224, 224), Image.Resampling.BICUBIC)) for picture in pictures])
    assert torch.equal(SIGLIP(pictures), torch.from_numpy(expected).permute(0, 3, 1, 2).float().div(255).sub(0.5) / 0.5)
