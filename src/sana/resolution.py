"""Resolution bins: the sizes a public checkpoint was trained at, and the one that another size is made from."""

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


def drawing_size(
    height: int, width: int, bins: list[tuple[int, int]] | None, *, f: int, binning: bool
) -> tuple[int, int]:
    """The (height, width) that a checkpoint with these bins draws at when height x width pixels are asked for.

    Args:
        height: of the picture asked for.
        width: as height.
        bins: what `resolution_bins` gave.
        f: pixels per latent cell.
        binning: whether to draw at the nearest bin; otherwise the size must be one that can be drawn as it is.

    Raises:
        ValueError: a side is not positive or, where no bin is taken, no multiple of f or not a size trained at.
    """
    given = f"size is {width}x{height}"
    if min(height, width) < 1:
        raise ValueError(f"{given}; both sides must be positive")
    if bins is not None and binning:
        return nearest_bin(height, width, bins)
    if height % f or width % f:
        high, wide = (max(f, round(side / f) * f) for side in (height, width))
        raise ValueError(f"{given}; both sides must be positive multiples of {f}: try {wide}x{high}")
    if bins is not None and (height, width) not in bins:
        high, wide = nearest_bin(height, width, bins)
        raise ValueError(
            f"{given}, which this checkpoint was not trained at: use {wide}x{high}, the nearest, or leave binning on"
        )
    return height, width
