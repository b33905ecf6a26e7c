"""Aspect-ratio buckets: the few sizes that images are cut to, so that a batch holds images of one size."""

from bisect import bisect_left
from dataclasses import dataclass
from functools import cache

# (height, width) in sixteenths of the nominal side, by rising ratio. PixArt-Sigma's training table, which SANA trains
# with at 512, 1024, 2048 and 4096 pixels. It has 20 wide sizes and 19 tall ones: (11, 21) has no counterpart.
_SIXTEENTHS = (
    *((8, 32), (8, 31), (8, 30), (8, 29), (9, 28), (9, 27), (9, 26), (10, 25), (10, 24), (11, 23), (11, 22)),
    *((11, 21), (12, 21), (12, 20), (13, 19), (13, 18), (14, 18), (14, 17), (15, 17), (15, 16), (16, 16)),
    *((16, 15), (17, 15), (17, 14), (18, 14), (18, 13), (19, 13), (20, 12), (21, 12), (22, 11), (23, 11)),
    *((24, 10), (25, 10), (26, 9), (27, 9), (28, 9), (29, 8), (30, 8), (31, 8), (32, 8)),
)


@dataclass(frozen=True, slots=True)
class AspectRatioBuckets:
    """The sizes of the public table for a nominal side: `AspectRatioBuckets(1024).nearest(1200, 1800)`.

    At 512, 1024, 2048 and 4096 pixels these are the 40 sizes that the public checkpoints were trained at. For another
    side, or another autoencoder, those of them remain whose sides are multiples of `multiple`.

    Attributes:
        side: nominal pixels per side; a sixteenth of it is the step of the table.
        multiple: pixels per latent cell of the autoencoder, which both sides of a size must be multiples of.
        square: whether only the square remains.

    Raises:
        ValueError: the side is not a multiple of both 16 and `multiple`.
    """

    side: int
    multiple: int = 32
    square: bool = False

    def __post_init__(self) -> None:
        if min(self.side, self.multiple) < 1 or self.side % 16 or self.side % self.multiple:
            raise ValueError(
                f"side is {self.side} and multiple {self.multiple}; the side must be a positive multiple of both 16 "
                f"and {self.multiple}, such as 512, 1024, 2048 or 4096"
            )

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """The (height, width) in pixels, by rising ratio of height to width."""
        if self.square:
            return [(self.side, self.side)]
        step = self.side // 16
        sizes = [(step * high, step * wide) for high, wide in _SIXTEENTHS]
        return [size for size in sizes if not any(pixels % self.multiple for pixels in size)]

    def nearest(self, height: int, width: int) -> tuple[int, int]:
        """The size whose ratio of sides is nearest to that of height x width.

        Ratios of the table are compared at two decimals, as the published tables name them; of two that are equally
        near, the wider size is taken.
        """
        if min(height, width) < 1:
            raise ValueError(f"size is {height}x{width}; both sides must be positive")
        sizes, ratios, ratio = *_table(self), height / width
        place = bisect_left(ratios, ratio)
        near = range(max(0, place - 1), min(len(sizes), place + 1))
        return sizes[min(near, key=lambda index: abs(ratios[index] - ratio))]


@cache
def _table(buckets: AspectRatioBuckets) -> tuple[list[tuple[int, int]], list[float]]:
    sizes = buckets.sizes
    return sizes, [round(high / wide, 2) for high, wide in sizes]
