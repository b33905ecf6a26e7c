import hashlib

import numpy as np
import pytest
import torch
from PIL import Image

from sana_judge.geneval.mmdet_pixels import normalized, opencv_bilinear, padded_size, resized


def pattern(height: int, width: int) -> np.ndarray:
    y, x, c = np.ogrid[:height, :width, :3]
    return ((x * x * 31 + y * y * 17 + x * y * 7 + c * 101) % 256).astype(np.uint8)


# SHA-256 of what cv2.resize of opencv-python-headless 5.0.0 gave: up, down, halved, one row, and not in proportion.
OPENCV = [
    ((64, 64), (100, 100), "2ba23ec9f4fc86ccc969f8e641db04a326988eda3d56fa427b13b40fb3b2deaa"),
    ((97, 61), (50, 31), "25821c7c877747fecbad68a9a6c86cc06e39ca9611fea9b2b7b95e4ca665d29c"),
    ((80, 120), (40, 60), "07548bc4be5edafe5ab035dc511f269438f4106ae5e82a0116b9734a87412dbf"),
    ((1, 5), (27, 133), "beadf6bf328641b552fd45fff82513af7f2ef57fcc5538881463c399fbf8f26f"),
    ((90, 50), (33, 129), "8d3c05b6e49c8efb24c480f3ea008e275c74622f89834b97737117e34381e755"),
    ((60, 60), (20, 20), "af1124a3639184150b24765a1ff43b69094dc9aecbd0bcc772887f5dec6918ad"),
]


@pytest.mark.parametrize(("source", "target", "digest"), OPENCV)
def test_resizing_equals_opencv_bit_for_bit(source, target, digest):
    small = opencv_bilinear(pattern(*source), *target)
    assert hashlib.sha256(small.tobytes()).hexdigest() == digest


def test_resizing_equals_an_installed_opencv():
    cv2 = pytest.importorskip("cv2")
    for (height, width), (rows, columns), _ in OPENCV:
        expected = cv2.resize(pattern(height, width), (columns, rows), interpolation=cv2.INTER_LINEAR)
        assert (opencv_bilinear(pattern(height, width), rows, columns) == expected).all()


@pytest.mark.parametrize(
    ("size", "seen", "padded"),
    [
        ((512, 512), (800, 800), (800, 800)),
        ((640, 480), (800, 1067), (800, 1088)),  # the shorter side to 800
        ((200, 1000), (1333, 267), (1344, 288)),  # the longer to 1333, where that is less
        ((3000, 1), (1, 1333), (32, 1344)),
    ],
)
def test_an_image_is_fitted_into_1333_by_800_and_padded_to_32(size, seen, padded):
    pixels = resized(Image.new("RGB", size))
    assert pixels.shape == (*seen, 3)
    assert padded_size(pixels) == padded


def test_pixels_are_scaled_as_imagenets_and_padded_with_grey():
    x = normalized([np.full((32, 40, 3), (255, 0, 10), dtype=np.uint8)])
    assert x.shape == (1, 3, 32, 64)
    # (255 - 123.675) / 58.395, (0 - 116.28) / 57.12, (10 - 103.53) / 57.375; the padding is (128 - mean) / std.
    torch.testing.assert_close(x[0, :, 0, 0], torch.tensor([2.2489083, -2.0357143, -1.6301525]))
    torch.testing.assert_close(x[0, :, 31, 63], torch.tensor([0.0740646, 0.2051821, 0.4264924]))
    assert (x[..., 40:] == x[..., 63:]).all()


def test_images_of_one_padded_size_share_a_batch():
    one, other = pattern(30, 40), pattern(25, 64)
    x = normalized([one, other])
    assert x.shape == (2, 3, 32, 64)
    assert (x[1] == normalized([other])[0]).all()
