import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from sana_judge.image_reading import MAX_PIXELS, hash_image, read_image


@pytest.fixture
def noise():
    return Image.merge("RGB", [Image.effect_noise((24, 16), 80) for _ in range(3)])


def test_a_file_and_the_image_in_it_are_the_same(noise, tmp_path):
    noise.save(tmp_path / "a.png")
    for image in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.open(tmp_path / "a.png"), noise):
        assert read_image(image).tobytes() == noise.tobytes()


def test_an_image_lies_as_its_exif_data_says(noise, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    noise.save(tmp_path / "a.png", exif=exif)
    assert read_image(tmp_path / "a.png").tobytes() == noise.transpose(Image.Transpose.ROTATE_270).tobytes()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(mode):
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 255))
    read = read_image(image.quantize() if mode == "P" else image.convert(mode))
    assert (read.mode, read.getpixel((0, 0)), read.getpixel((1, 0))) == ("RGB", (255, 255, 255), (0, 0, 0))


def test_an_opaque_alpha_channel_changes_nothing(noise):
    opaque = noise.copy()
    opaque.putalpha(255)
    assert read_image(opaque).tobytes() == noise.tobytes()


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK"])
def test_other_modes_become_rgb(noise, mode):
    image = noise.convert(mode)
    assert read_image(image).tobytes() == image.convert("RGB").tobytes()


def deep_png(levels, *, color):
    """A PNG of 16 bits per channel, grey or three times the same; Pillow writes none in colour."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", len(levels), 1, 16, 2 if color else 0, 0, 0, 0)
    row = b"\0" + np.repeat(levels, 3 if color else 1).astype(">u2").tobytes()
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize("color", [False, True])
def test_of_sixteen_bits_the_upper_eight_are_seen_in_grey_and_in_colour(tmp_path, color):
    levels = [0, 255, 256, 257, 32895, 32896, 65535]
    (tmp_path / "deep.png").write_bytes(deep_png(levels, color=color))
    pixels = np.asarray(read_image(tmp_path / "deep.png"))
    assert pixels[0].tolist() == [[level >> 8] * 3 for level in levels]


def test_an_animation_is_its_first_frame_or_the_current_one(tmp_path):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "a.gif").getpixel((0, 0)) == (255, 0, 0)
    with Image.open(tmp_path / "a.gif") as opened:
        opened.seek(1)
        assert read_image(opened).getpixel((0, 0)) == (0, 0, 255)


def test_damaged_files_are_refused_by_name(noise, tmp_path):
    noise.save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:300])
    with pytest.raises(ValueError, match=r"cut\.png is damaged"):
        read_image(tmp_path / "cut.png")
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.png is not an image"):
        read_image(tmp_path / "text.png")
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        read_image(tmp_path / "none.png")


def test_a_postscript_file_of_any_name_is_not_handed_to_ghostscript(noise, tmp_path):
    noise.save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png is not an image of a known format \(JPEG, PNG"):
        read_image(tmp_path / "a.png")


def test_a_file_whose_header_is_cut_is_refused_by_name(noise, tmp_path):
    noise.save(tmp_path / "whole.bmp")
    for name, content in {
        "cut.png": b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0",
        "cut.jpg": b"\xff\xd8\xff\xe0",
        "cut.bmp": (tmp_path / "whole.bmp").read_bytes()[:16],
        "cut.webp": b"RIFF\x1a\0\0\0WEBPVP8L",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name} is"):
            read_image(tmp_path / name)


@pytest.mark.parametrize("width", [MAX_PIXELS // 8192 + 1, 11_000, 30_000])
def test_a_huge_image_is_refused_before_it_is_decoded(tmp_path, width):
    Image.new("1", (width, 8192)).save(tmp_path / "huge.png")
    (tmp_path / "huge.png").write_bytes((tmp_path / "huge.png").read_bytes()[:200])  # nothing left to decode
    with pytest.raises(ValueError, match=r"huge\.png (is|has)"):
        read_image(tmp_path / "huge.png")


def test_reading_leaves_the_filters_of_the_process_alone(noise, tmp_path, monkeypatch):
    noise.save(tmp_path / "a.png")
    filters, opened, opening = list(warnings.filters), Image.open, []
    monkeypatch.setattr(
        Image, "open", lambda *args, **options: opening.append(list(warnings.filters)) or opened(*args, **options)
    )
    read_image(tmp_path / "a.png")
    assert opening == [filters]  # other threads would see a change, and might undo it for good


def test_an_empty_image_and_another_kind_of_thing_are_refused():
    with pytest.raises(ValueError, match="is 0x5; it must have from 1"):
        read_image(Image.new("RGB", (0, 5)))
    with pytest.raises(TypeError, match="ndarray; it must be a PIL image or the path"):
        read_image(np.zeros((4, 4, 3)))


def test_a_hash_follows_what_is_seen(noise):
    assert hash_image(noise) == hash_image(noise.copy())
    turned = noise.transpose(Image.Transpose.ROTATE_90)
    assert len({hash_image(image) for image in (noise, ImageOps.mirror(noise), turned)}) == 3
    assert hash_image(Image.new("RGB", (2, 3))) != hash_image(Image.new("RGB", (3, 2)))
