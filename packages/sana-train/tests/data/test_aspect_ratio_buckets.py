import pytest

from sana_train.data.aspect_ratio_buckets import AspectRatioBuckets


@pytest.mark.parametrize("side", [512, 1024, 2048, 4096])
def test_the_public_sides_have_forty_sizes_of_nearly_one_area(side):
    sizes = AspectRatioBuckets(side).sizes
    assert len(set(sizes)) == 40
    assert (side, side) in sizes
    assert all(0.89 < high * wide / side**2 < 1.01 for high, wide in sizes)
    assert all(not high % 32 and not wide % 32 for high, wide in sizes)
    assert [high / wide for high, wide in sizes] == sorted(high / wide for high, wide in sizes)


def test_sizes_are_those_that_pixart_sigma_publishes():
    sizes = AspectRatioBuckets(1024).sizes
    assert sizes[:4] == [(512, 2048), (512, 1984), (512, 1920), (512, 1856)]
    assert sizes[10:13] == [(704, 1408), (704, 1344), (768, 1344)]
    assert sizes[29:32] == [(1408, 704), (1472, 704), (1536, 640)]
    assert AspectRatioBuckets(4096).sizes[0] == (2048, 8192)
    assert AspectRatioBuckets(512).sizes[-1] == (1024, 256)


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        (100, 100, (1024, 1024)),
        (1080, 1920, (768, 1344)),  # 0.5625 is nearer to 0.57 than to 0.52
        (1920, 1080, (1344, 768)),  # 1.78 is nearer to 1.75 than to 2.0
        (1, 100, (512, 2048)),
        (100, 1, (2048, 512)),
        (346, 1000, (576, 1664)),
        (3625, 1000, (1856, 512)),
    ],
)
def test_an_image_goes_to_the_nearest_ratio(height, width, size):
    buckets = AspectRatioBuckets(1024)
    assert buckets.nearest(height, width) == size
    by_search = min(buckets.sizes, key=lambda s: abs(round(s[0] / s[1], 2) - height / width))
    assert buckets.nearest(height, width) == by_search


def test_every_size_is_nearest_to_itself():
    buckets = AspectRatioBuckets(2048)
    assert [buckets.nearest(*size) for size in buckets.sizes] == buckets.sizes


def test_coarser_cells_leave_the_sizes_that_they_divide():
    sizes = AspectRatioBuckets(512, multiple=128).sizes
    assert sizes == [(256, 1024), (384, 640), (512, 512), (640, 384), (1024, 256)]
    assert AspectRatioBuckets(1024, square=True).nearest(100, 300) == (1024, 1024)


def test_a_side_that_cells_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="side is 1000 and multiple 32; the side must be a positive multiple of both"):
        AspectRatioBuckets(1000)
    with pytest.raises(ValueError, match="size is 0x5; both sides must be positive"):
        AspectRatioBuckets(512).nearest(0, 5)
