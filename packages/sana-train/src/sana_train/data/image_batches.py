"""Batches of images and captions straight from a manifest, in an order that is a pure function of (seed, epoch)."""

from collections import defaultdict
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from sana_train.data.aspect_ratio_buckets import AspectRatioBuckets
from sana_train.data.bad_samples import BadSampleError, Reason, Skipped, TooManyBadSamplesError, check_skipped
from sana_train.data.bucket_sampler import BucketSampler, Size
from sana_train.data.caption_sampler import CaptionSampler
from sana_train.data.image_manifest import ImageManifest
from sana_train.data.image_reading import fitted, read_image
from sana_train.data.image_records import ImageRecord
from sana_train.draws import Draws
from sana_train.objective import Batch


class ImageBatches:
    """Batches with `images` (B, 3, H, W) in [-1, 1], each cut to its bucket, `key`, and `caption_text`.

    An image that cannot be read is replaced by another of its bucket, which (seed, step, slot) decide.

    Args:
        manifest: of the images.
        buckets: the sizes that they are cut to.
        batch_size: samples of the global batch.
        seed: names the order, and the captions that are drawn.
        captions: draws one of an image's captions; None leaves captions out, and takes images that have none.
        max_skipped: fraction of the manifest that may be skipped.

    Attributes:
        skipped: images without the captions or scores that are asked for, and what this process could not read so far.

    Raises:
        ValueError: no bucket has images for one batch, or captions need scores and more images lack them than may be
            skipped.
        TooManyBadSamplesError: more images than that have no caption.
    """

    def __init__(
        self,
        manifest: ImageManifest,
        buckets: AspectRatioBuckets,
        *,
        batch_size: int,
        seed: int = 0,
        captions: CaptionSampler | None = None,
        max_skipped: float = 0.01,
    ) -> None:
        unusable = {} if captions is None else _without_captions(manifest, captions, max_skipped)
        groups = bucket_groups(manifest, buckets, without=unusable)
        self.sampler = BucketSampler(groups, batch_size=batch_size, seed=seed, where=str(manifest.root))
        self.manifest = manifest
        self.buckets = buckets
        self.captions = captions
        self.max_skipped = max_skipped
        self.skipped = list(unusable.values())
        self._unreadable: dict[Size, set[int]] = {size: set() for size in groups}
        check_skipped(self.skipped, total=len(manifest), fraction=max_skipped)

    @property
    def batch_size(self) -> int:
        """Samples of the global batch."""
        return self.sampler.batch_size

    @property
    def steps_per_epoch(self) -> int:
        """Batches in which each image comes at most once, but for those that replace others."""
        return self.sampler.steps_per_epoch

    def __call__(self, step: int) -> Batch:
        """The global batch of a step."""
        return self.part(step, range(self.batch_size))

    def part(self, step: int, slots: Sequence[int]) -> Batch:
        """Only the samples of the global batch at `slots`; no other image is read.

        Raises:
            TooManyBadSamplesError: more images cannot be read than may be skipped, or a whole bucket.
        """
        rows = self.sampler.batch(step).tolist()
        read = [self._readable(rows[slot], step, slot) for slot in slots]
        batch: Batch = {
            "images": torch.stack([image for _, image in read]),
            "key": [record.key for record, _ in read],
        }
        if self.captions is not None:
            batch["caption_text"] = [self._caption(record, self.sampler.epoch(step)) for record, _ in read]
        return batch

    def _readable(self, row: int, step: int, slot: int) -> tuple[ImageRecord, Tensor]:
        wanted = self.manifest[row]
        size = self.buckets.nearest(wanted.height, wanted.width)
        group, unreadable = self.sampler.groups[size], self._unreadable[size]
        attempt = 0
        while len(unreadable) < len(group):
            if row not in unreadable:
                record = self.manifest[row]
                try:
                    return record, fitted(read_image(self.manifest.bytes_of(record)), *size)
                except BadSampleError as error:
                    unreadable.add(row)
                    self.skipped.append(Skipped.of(record.key, error))
                    check_skipped(self.skipped, total=len(self.manifest), fraction=self.max_skipped)
            row = int(group[Draws(self.sampler.seed, step, ()).key(f"instead/{slot}/{attempt}") % len(group)])
            attempt += 1
        raise TooManyBadSamplesError(
            f"none of the {len(group)} images nearest to {size[0]}x{size[1]} pixels can be read, such as "
            f"{wanted.key}: mend them, or leave them out and index the folder again",
            self.skipped,
        )

    def _caption(self, record: ImageRecord, epoch: int) -> str:
        assert self.captions is not None
        pairs = zip(record.captions, record.scores, strict=True)
        usable = [(caption, score or 0.0) for caption, score in pairs if caption.strip()]
        scores = [score for _, score in usable]
        return usable[self.captions.choose(scores, seed=self.sampler.seed, epoch=epoch, key=record.key)][0]


def bucket_groups(
    manifest: ImageManifest, buckets: AspectRatioBuckets, *, without: Collection[int] = ()
) -> dict[Size, Tensor]:
    """Size in pixels -> the rows of the manifest that are nearest to it, but for some."""
    groups = defaultdict(list)
    for row, (height, width) in enumerate(zip(manifest.column("height"), manifest.column("width"), strict=True)):
        if row not in without:
            groups[buckets.nearest(height, width)].append(row)
    return {size: torch.tensor(rows) for size, rows in groups.items()}


def _without_captions(manifest: ImageManifest, captions: CaptionSampler, most: float) -> dict[int, Skipped]:
    """The rows that have no caption to draw; ValueError where a larger fraction than `most` lacks scores for it."""
    found, unscored = {}, []
    rows = zip(manifest.column("key"), manifest.column("captions"), manifest.column("scores"), strict=True)
    for row, (key, texts, scores) in enumerate(rows):
        if not any(text.strip() for text in texts):
            found[row] = Skipped(key, Reason.NO_CAPTION, f"it has {len(texts)} captions, none with a word")
        elif captions.needs_scores and len(scores) > 1 and None in scores:
            found[row] = Skipped(key, Reason.NO_SCORE, f"it has {len(scores)} captions")
            unscored.append(key)
    if len(unscored) > most * len(manifest):
        raise ValueError(
            f"{len(unscored)} images of {manifest.root} have several captions and some without a score (first "
            f"{unscored[0]}): score them with `sana score-captions`, or draw all alike with "
            "CaptionSampler(tau=math.inf)"
        )
    return found
