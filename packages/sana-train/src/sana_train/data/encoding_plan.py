"""Which images go into which shard: a pure function of the manifest and of how it is to be encoded."""

import math
from collections.abc import Collection
from dataclasses import dataclass

from sana_train.data.aspect_ratio_buckets import AspectRatioBuckets
from sana_train.data.bucket_sampler import Size
from sana_train.data.image_batches import bucket_groups
from sana_train.data.image_manifest import ImageManifest


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodingSettings:
    """How a manifest becomes shards.

    Attributes:
        buckets: the sizes that images are cut to.
        shard_size: images of a shard, which is also what a process does at a time and may lose when killed.
        batch_size: images or captions that are encoded together.
        max_captions: of an image; the best ones where they have scores, else the first ones. None takes them all.
        min_score: images whose best caption scores less are left out, such as for quality tuning; None takes them all.
        max_upscale: images that would have to be enlarged more than so many times are left out; None takes them all.
        max_skipped: fraction of the images that may be skipped before the run stops.
    """

    buckets: AspectRatioBuckets
    shard_size: int = 256
    batch_size: int = 8
    max_captions: int | None = None
    min_score: float | None = None
    max_upscale: float | None = None
    max_skipped: float = 0.01

    def __post_init__(self) -> None:
        for name in ("shard_size", "batch_size", "max_captions"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if not 0 <= self.max_skipped <= 1:
            raise ValueError(f"max_skipped is {self.max_skipped}; it is a fraction, in [0, 1]")
        if self.min_score is not None and not math.isfinite(self.min_score):
            raise ValueError(f"min_score is {self.min_score}; it must be a finite score, or None")
        if self.max_upscale is not None and not self.max_upscale >= 1:
            raise ValueError(f"max_upscale is {self.max_upscale}; it must be at least 1, or None")


def plan_shards(manifest: ImageManifest, settings: EncodingSettings) -> dict[str, tuple[Size, list[int]]]:
    """Name of each shard -> size of its images in pixels, and their rows in the manifest.

    Raises:
        ValueError: the manifest is empty, or `min_score` and `max_upscale` leave no image.
    """
    if not len(manifest):
        raise ValueError(f"the manifest of {manifest.root} has no images: index a folder that holds some")
    heights, widths, scores = (manifest.column(name) for name in ("height", "width", "scores"))

    def is_wanted(row: int, size: Size) -> bool:
        enlarged = max(size[0] / heights[row], size[1] / widths[row])
        large_enough = settings.max_upscale is None or enlarged <= settings.max_upscale
        return large_enough and (settings.min_score is None or _best(scores[row]) >= settings.min_score)

    plan = {}
    for size, group in sorted(bucket_groups(manifest, settings.buckets).items()):
        rows = [row for row in group.tolist() if is_wanted(row, size)]
        for number, start in enumerate(range(0, len(rows), settings.shard_size)):
            plan[f"{size[0]}x{size[1]}-{number:05d}"] = size, rows[start : start + settings.shard_size]
    if not plan:
        score, upscale = settings.min_score, settings.max_upscale
        wanted = [f"has a caption that scores {score}"] * (score is not None)
        wanted += [f"fills a size of {settings.buckets.side} when enlarged {upscale} times"] * (upscale is not None)
        raise ValueError(
            f"none of the {len(manifest)} images of {manifest.root} {' and '.join(wanted)}: lower min_score (or score "
            "the captions first), or raise max_upscale"
        )
    return plan


def has_scores(manifest: ImageManifest, rows: Collection[int], *, most: float) -> bool:
    """Whether any caption has a score; the few of `rows` that lack one are then skipped. An only caption needs none.

    Raises:
        ValueError: more than the fraction `most` of these rows have several captions without scores, while others
            have scores.
    """
    column = manifest.column("scores")
    without = [row for row in rows if len(column[row]) > 1 and None in column[row]]
    some = any(score is not None for scores in column for score in scores)
    if some and len(without) > most * len(rows):
        raise ValueError(
            f"{len(without)} images of {manifest.root} have captions without a score, and others have scores (first "
            f"{manifest[without[0]].key}): score them all with `sana score-captions`"
        )
    return some


def _best(scores: list[float | None]) -> float:
    return max((score for score in scores if score is not None), default=-math.inf)
