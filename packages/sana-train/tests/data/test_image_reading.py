import contextlib
import io
import itertools
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from sana_train.data.aspect_ratio_buckets import AspectRatioBuckets
from sana_train.data.bad_samples import BadSampleError, Reason
from sana_train.data.image_reading import MAX_BYTES, _cut, fitted, image_size, read_image


def saved(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png_header(width, height):
    """A PNG that says it is so large and holds one row of zeros."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1 + 3 * min(width, 100)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def reason_of(read, content):
    with pytest.raises(BadSampleError) as caught:
        read(content)
    return caught.value.reason


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_formats_of_data_sets_are_read(image_bytes, kind):
    content = image_bytes(kind=kind, width=64, height=40)
    assert image_size(content) == (40, 64)
    image = read_image(content)
    assert (image.mode, image.size) == ("RGB", (64, 40))


def test_a_turned_image_is_put_upright(make_picture):
    exif = Image.Exif()
    exif[0x0112] = 6
    content = saved(make_picture(0, 64, 40), "JPEG", exif=exif)
    assert image_size(content) == (64, 40)
    assert read_image(content).size == (40, 64)


def test_transparency_becomes_white_and_sixteen_bits_eight():
    clear = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    assert read_image(saved(clear)).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("RGB", (2, 2), (9, 9, 9)).quantize(2)
    assert read_image(saved(palette)).getpixel((0, 0)) == (9, 9, 9)
    assert read_image(saved(palette, transparency=0)).getpixel((0, 0)) == (255, 255, 255)
    deep = Image.fromarray(np.full((2, 2), 0x8000, np.uint16))
    assert read_image(saved(deep)).getpixel((0, 0)) == (128, 128, 128)
    assert read_image(saved(Image.new("CMYK", (2, 2)), "JPEG")).mode == "RGB"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_an_image_cut_short_is_damaged(image_bytes, kind):
    content = image_bytes(kind=kind, width=256, height=256)
    assert reason_of(read_image, content[: len(content) // 2]) in (Reason.TRUNCATED, Reason.NOT_AN_IMAGE)


@pytest.mark.parametrize(("width", "height"), [(12_000, 12_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_a_decompression_bomb_is_not_decoded(width, height):
    content = png_header(width, height)
    assert len(content) < 200
    for read in (read_image, image_size):
        assert reason_of(read, content) == Reason.TOO_LARGE


def test_a_file_too_large_is_not_even_opened():
    class Huge(bytes):
        def __len__(self):
            return MAX_BYTES + 1

    assert reason_of(read_image, Huge()) == Reason.TOO_LARGE


@pytest.mark.parametrize("content", [b"", b"no image", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"GIF89a" + bytes(30)])
def test_what_is_no_image_of_these_formats_is_refused(content):
    assert reason_of(read_image, content) == Reason.NOT_AN_IMAGE
    assert reason_of(image_size, content) == Reason.NOT_AN_IMAGE


def test_random_damage_is_an_image_or_a_bad_sample(image_bytes):
    draw = np.random.default_rng(0)
    for kind in ("JPEG", "PNG", "WEBP"):
        whole = image_bytes(kind=kind)
        for _ in range(150):
            content = bytearray(whole)
            for place in draw.integers(0, len(content), 4):
                content[place] = draw.integers(256)
            for read in (read_image, image_size):
                with contextlib.suppress(BadSampleError):
                    read(bytes(content))


def test_an_image_is_cut_around_its_centre():
    pixels = np.zeros((32, 96, 3), np.uint8)
    pixels[:, 32:64] = 255
    image = fitted(Image.fromarray(pixels), 32, 32)
    assert image.shape == (3, 32, 32)
    assert torch.equal(image, torch.ones(3, 32, 32))


def test_cutting_and_scaling_is_scaling_and_cutting(make_picture):
    image = make_picture(0, 192, 96)
    scaled = image.resize((64, 32), Image.Resampling.BICUBIC).crop((16, 0, 48, 32))
    expected = torch.from_numpy(np.array(scaled)).permute(2, 0, 1).float() / 127.5 - 1
    assert (fitted(image, 32, 32) - expected).abs().max() <= 1 / 127.5 + 1e-6  # one level of 256


@pytest.mark.parametrize(("width", "height"), [(450, 580), (580, 450), (333, 777), (1, 999), (257, 256)])
def test_an_image_of_any_size_fits_every_bucket(width, height):
    image = Image.new("RGB", (width, height))
    for size in AspectRatioBuckets(256).sizes:
        assert fitted(image, *size).shape == (3, *size)


def test_no_cut_begins_or_ends_outside_of_the_image():
    for height, width in AspectRatioBuckets(512).sizes:
        for size in itertools.product(range(97, 1200, 31), repeat=2):
            left, top, right, bottom = _cut(size, height, width)
            assert 0 <= left < right <= size[0]
            assert 0 <= top < bottom <= size[1]
            assert (left, right) == (0, size[0]) or (top, bottom) == (0, size[1])


def test_an_image_is_scaled_to_its_bucket_and_keeps_its_ratio():
    grey = Image.new("RGB", (100, 50), (128, 128, 128))
    image = fitted(grey, 64, 96)
    assert image.shape == (3, 64, 96)
    assert image.unique().item() == pytest.approx(128 / 127.5 - 1, abs=1e-6)
