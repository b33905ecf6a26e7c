"""Batches of images and captions straight from a manifest, in an order that is a pure function of (seed, epoch)."""

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from sana_train.data.aspect_ratio_buckets import AspectRatioBuckets
from sana_train.data.bad_samples import BadSampleError, Skipped, check_skipped
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
        skipped: what this process could not read so far.

    Raises:
        ValueError: no bucket has images for one batch, or there are captions without scores that need them.
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
        if captions is not None:
            check_scored(manifest, captions)
        groups = bucket_groups(manifest, buckets, captioned=captions is not None)
        self.sampler = BucketSampler(groups, batch_size=batch_size, seed=seed, where=str(manifest.root))
        self.manifest = manifest
        self.buckets = buckets
        self.captions = captions
        self.max_skipped = max_skipped
        self.skipped: list[Skipped] = []

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
        """Only the samples of the global batch at `slots`; no other image is read."""
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
        attempt = 0
        while True:
            record = self.manifest[row]
            size = self.buckets.nearest(record.height, record.width)
            try:
                return record, fitted(read_image(self.manifest.bytes_of(record)), *size)
            except BadSampleError as error:
                if all(sample.key != record.key for sample in self.skipped):
                    self.skipped.append(Skipped.of(record.key, error))
                check_skipped(self.skipped, total=len(self.manifest), fraction=self.max_skipped)
            group = self.sampler.groups[size]
            row = int(group[Draws(self.sampler.seed, step, ()).key(f"instead/{slot}/{attempt}") % len(group)])
            attempt += 1

    def _caption(self, record: ImageRecord, epoch: int) -> str:
        assert self.captions is not None
        scores = [0.0 if score is None else score for score in record.scores]
        return record.captions[self.captions.choose(scores, seed=self.sampler.seed, epoch=epoch, key=record.key)]


def bucket_groups(manifest: ImageManifest, buckets: AspectRatioBuckets, *, captioned: bool) -> dict[Size, Tensor]:
    """Size in pixels -> the rows of the manifest that are nearest to it, those without a caption left out if asked."""
    groups = defaultdict(list)
    sides = zip(manifest.column("height"), manifest.column("width"), manifest.column("captions"), strict=True)
    for row, (height, width, captions) in enumerate(sides):
        if captions or not captioned:
            groups[buckets.nearest(height, width)].append(row)
    return {size: torch.tensor(rows) for size, rows in groups.items()}


def check_scored(manifest: ImageManifest, captions: CaptionSampler) -> None:
    """Raise ValueError where captions are to be drawn by scores that they do not have."""
    if not captions.needs_scores:
        return
    rows = zip(manifest.column("key"), manifest.column("scores"), strict=True)
    without = [key for key, scores in rows if len(scores or ()) > 1 and None in scores]
    if without:
        raise ValueError(
            f"{len(without)} images of {manifest.root} have several captions and some without a score (first "
            f"{without[0]}): score them with `sana score-captions`, or draw all alike with CaptionSampler(tau=math.inf)"
        )
