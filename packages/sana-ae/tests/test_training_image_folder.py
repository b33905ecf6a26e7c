import logging

import numpy as np
import pytest
import torch
from PIL import Image

from sana_ae.training import ImageFolder


@pytest.fixture
def folder(tmp_path):
    """Ten pictures of different sizes, each of one colour with a bright left half."""
    for number in range(10):
        pixels = np.full((40 + number, 60, 3), number, dtype=np.uint8)
        pixels[:, :30] = 200 + number
        path = tmp_path / f"part{number % 2}" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
    return tmp_path


def make(folder, **options):
    return ImageFolder(folder, **({"size": 32, "batch_size": 4, "progress": False} | options))


def test_a_batch_depends_on_the_step_alone(folder):
    one, other = make(folder), make(folder)
    other(0), other(5)
    assert one(3)["key"] == other(3)["key"]
    assert torch.equal(one(3)["images"], other(3)["images"])
    assert one(3)["images"].shape == (4, 3, 32, 32)
    assert one(3)["images"].dtype == torch.uint8


def test_a_part_is_that_of_the_whole_batch(folder):
    batches = make(folder)
    whole, part = batches(1), batches.part(1, range(1, 3))
    assert torch.equal(part["images"], whole["images"][1:3])
    assert part["key"] == whole["key"][1:3]


def test_an_epoch_has_every_image_once_and_the_next_another_order(folder):
    batches = make(folder, batch_size=5)
    epochs = [batches(step)["key"] + batches(step + 1)["key"] for step in (0, 2)]
    assert all(sorted(epoch) == sorted(batches.names) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_another_seed_is_another_order(folder):
    assert make(folder, seed=1)(0)["key"] != make(folder)(0)["key"]


def test_crops_differ_between_epochs_and_some_are_mirrored(folder):
    batches = make(folder, batch_size=10)
    mirrored = torch.cat([(batches(epoch)["images"][:, 0, :, 0] < 128).any(1) for epoch in range(4)])
    crops = [torch.stack([batches(e)["images"][batches(e)["key"].index("part0/0.png")]]) for e in range(4)]
    assert 0.2 < mirrored.float().mean() < 0.8  # of 40 fair coins
    assert len({crop.numpy().tobytes() for crop in crops}) > 1


@pytest.mark.parametrize(
    ("size", "reason"), [((20, 400), "too small"), ((33, 600), "too long"), ((12000, 9000), "too large")]
)
def test_images_out_of_bounds_are_left_out_and_counted(folder, size, reason, caplog):
    Image.new("1", size).save(folder / "odd.png")
    with caplog.at_level(logging.WARNING):
        batches = make(folder, max_bad=0.2)
    assert batches.skipped == {reason: 1}
    assert batches.bad == ["odd.png"]
    assert "odd.png is left out" in caplog.text
    assert len(batches.names) == 10


def test_a_file_that_is_no_image_is_left_out(folder):
    (folder / "text.jpg").write_text("not a picture")
    assert make(folder, max_bad=0.2).skipped == {"unreadable": 1}


def test_a_truncated_image_is_replaced_by_the_next_one(folder):
    whole = (folder / "part0/0.png").read_bytes()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "part0/0.png")
    noisy = (folder / "part0/0.png").read_bytes()
    assert len(noisy) > len(whole)
    (folder / "part0/0.png").write_bytes(noisy[: len(noisy) // 2])
    batches = make(folder, batch_size=10)
    batch = batches(0)
    assert len(batch["images"]) == 10
    assert "part0/0.png" not in batch["key"]
    assert batches.skipped == {"damaged": 1}
    assert len(batches.fixed(10)) == 9


def reading(path, image, **options):
    """The middle of the only image of a folder, as training sees it: (H, W, 3)."""
    image.save(path, **options)
    return make(path.parent, size=64, batch_size=1).fixed(1)[0].permute(1, 2, 0)


def test_16_bit_grey_is_scaled_to_8_bits(tmp_path):
    ramp = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (64, 1))
    pixels = reading(tmp_path / "grey.png", Image.fromarray(ramp))
    assert np.array_equal(pixels[:, :, 1].numpy(), ramp >> 8)


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_transparent_pixels_are_white(tmp_path, mode):
    if mode == "RGBA":
        picture, options = Image.new("RGBA", (64, 64), (255, 0, 0, 0)), {}
    else:
        picture, options = Image.new("P", (64, 64)), {"transparency": 0}
    assert (reading(tmp_path / "clear.png", picture, **options) == 255).all()


def test_images_are_turned_as_their_exif_says(tmp_path):
    wide, exif = Image.fromarray(np.tile(np.arange(96, dtype=np.uint8), (64, 1))), Image.Exif()
    exif[0x0112] = 6  # a quarter to the right: columns become rows
    pixels = reading(tmp_path / "turned.png", wide, exif=exif)[:, :, 0].float()
    assert pixels.std(0).mean() > 10
    assert pixels.std(1).max() == 0


def test_a_file_of_another_format_is_left_out_whatever_it_is_called(folder):
    Image.new("RGB", (64, 64)).save(folder / "x.eps")
    (folder / "x.eps").rename(folder / "x.png")
    assert make(folder, max_bad=0.2).bad == ["x.png"]


def test_fixed_images_are_from_everywhere_in_the_folder(tmp_path):
    for number in range(64):
        (tmp_path / "ab"[number // 32]).mkdir(exist_ok=True)
        Image.new("L", (32, 32), 255 * (number // 32)).save(tmp_path / "ab"[number // 32] / f"{number}.png")
    bright = make(tmp_path).fixed(32).float().mean() / 255
    assert torch.equal(make(tmp_path).fixed(32), make(tmp_path).fixed(32))
    assert 0.2 < bright < 0.8  # half of the folder; 32 of 64 drawn: 0.5 with a deviation of 0.06


def test_too_many_bad_images_stop_at_once(folder):
    for number in range(5):
        (folder / f"{number}.jpg").write_text("not a picture")
    with pytest.raises(ValueError, match=r"5 of 15 images of .* \(5 unreadable"):
        make(folder)


def test_when_everything_is_damaged_it_says_so(folder):
    batches = make(folder)
    for path in folder.rglob("*.png"):
        path.write_bytes(path.read_bytes()[:40])
    for look in (lambda: batches(0), lambda: batches.fixed(2)):
        with pytest.raises(ValueError, match="are damaged"):
            look()


def test_links_out_of_the_folder_are_not_followed(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "secret.png"
    Image.new("RGB", (64, 64)).save(outside)
    (folder / "link.png").symlink_to(outside)
    assert "link.png" not in make(folder).names


def test_another_set_of_images_has_another_fingerprint(folder):
    before = make(folder).fingerprint
    assert make(folder).fingerprint == before
    (folder / "part0/0.png").rename(folder / "part0/new.png")
    assert make(folder).fingerprint != before


def test_fewer_images_than_a_batch_are_refused(folder):
    with pytest.raises(ValueError, match="10 usable images and batch_size is 11"):
        make(folder, batch_size=11)


@pytest.mark.parametrize("name", ["none", "empty"])
def test_a_missing_or_empty_folder_is_refused(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=name):
        make(tmp_path / name)
