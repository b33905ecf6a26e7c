"""A cheap look at every image and a close one at the best of them: two stages of one judge."""

import math
from collections.abc import Sequence

from sana_judge.image_reading import ImageLike
from sana_judge.vila.judge import VILAJudge


class CascadeJudge:
    """Judges every image by one tile, and the top share of them again by all tiles.

    A judge like any other. Images of the second stage always rank above the rest. The rest keep their first-stage
    score, capped just below the lowest score of the second stage.

    Attributes:
        judge: Who judges.
        share: Of the images, how many get the close look, in (0, 1].
        first_tiles: Most tiles of the first look.
    """

    def __init__(self, judge: VILAJudge, *, share: float = 0.25, first_tiles: int = 1):
        """Raises ValueError unless 0 < share <= 1 and first_tiles is at least 1."""
        if not 0 < share <= 1:
            raise ValueError(f"share is {share}; it must be above 0 and at most 1")
        if first_tiles < 1:
            raise ValueError(f"first_tiles is {first_tiles}; it must be at least 1")
        self.judge = judge
        self.share = share
        self.first_tiles = first_tiles

    def __call__(self, prompt: str, images: Sequence[ImageLike]) -> list[float]:
        """Returns one number per image, higher is better; see `VILAJudge.score` for arguments and errors."""
        if not images:
            return []
        first_look = self.judge.score(prompt, images, max_tiles=self.first_tiles)
        values = [score.value(self.judge.rule) for score in first_look]
        order = sorted(range(len(images)), key=lambda index: -values[index])  # of equals, the earlier
        top = math.ceil(self.share * len(images))
        again = [index for index in order[:top] if self.judge.count_tiles(images[index]) > first_look[index].tiles]
        for index, value in zip(again, self.judge(prompt, [images[index] for index in again]), strict=True):
            values[index] = value
        ceiling = min(values[index] for index in order[:top])
        for index in order[top:]:
            ceiling = values[index] = min(values[index], math.nextafter(ceiling, -math.inf))
        return values
