"""One shard of a data set: its images read ahead, encoded in batches, and written with their captions."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sana_train.data.bad_samples import BadSampleError, Reason, Skipped
from sana_train.data.batched import batched
from sana_train.data.bucket_sampler import Size
from sana_train.data.encoding_plan import EncodingSettings
from sana_train.data.image_manifest import ImageManifest
from sana_train.data.image_reading import fitted, read_image
from sana_train.data.image_records import ImageRecord
from sana_train.data.shard_files import read_header, write_shard


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoders:
    """What turns images and captions into what a model is trained on.

    Attributes:
        images: (B, 3, H, W) in [-1, 1] -> latents (B, channels, H/f, W/f), not times the scaling factor.
        captions: B texts -> states (B, L, Dc) and their mask (B, L).
        channels: of the latents.
        f: pixels per latent cell.
        scaling_factor: what these latents are multiplied by for the model.
    """

    images: Callable[[Tensor], Tensor]
    captions: Callable[[list[str]], tuple[Tensor, Tensor]]
    channels: int
    f: int
    scaling_factor: float


class ShardEncoder:
    """Encodes the images of one shard after another."""

    def __init__(
        self, manifest: ImageManifest, encoders: Encoders, settings: EncodingSettings, *, scored: bool, threads: int
    ) -> None:
        self.manifest = manifest
        self.encoders = encoders
        self.settings = settings
        self.scored = scored
        self.threads = threads

    def write(self, path: Path, rows: Sequence[int], size: Size) -> tuple[dict[str, Any], list[Skipped]]:
        """Write a shard, unless all of its images are bad; its facts, and what was skipped."""
        skipped: list[Skipped] = []
        records, latents = [], []
        for batch in batched(self._images(rows, size, skipped), self.settings.batch_size):
            encoded = self.encoders.images(torch.stack([image for _, image in batch])).cpu()
            for (record, _), latent in zip(batch, encoded, strict=True):
                try:
                    latents.append(self._checked(latent, size))
                    records.append(record)
                except BadSampleError as error:
                    skipped.append(Skipped.of(record.key, error))
        for leftover in (path, *path.parent.glob(f".{path.name}.*.tmp")):  # of writers that were killed
            leftover.unlink(missing_ok=True)
        if not records:
            return {"samples": 0, "captions": 0, "sha256": None}, skipped
        chosen = [_best_captions(record, self.settings.max_captions) for record in records]
        states, mask = self._captions([text for texts, _ in chosen for text in texts])
        write_shard(
            path,
            torch.stack(latents),
            states,
            mask,
            keys=[record.key for record in records],
            scaling_factor=self.encoders.scaling_factor,
            captions_of=[len(texts) for texts, _ in chosen],
            caption_scores=[score for _, scores in chosen for score in scores] if self.scored else None,
        )
        return {"samples": len(records), "captions": len(states), "sha256": read_header(path).sha256}, skipped

    def _images(self, rows: Sequence[int], size: Size, skipped: list[Skipped]) -> Iterator[tuple[ImageRecord, Tensor]]:
        """The images that can be used, in order, read some ahead."""
        ahead: deque[tuple[ImageRecord, Future[Tensor]]] = deque()

        def oldest() -> Iterator[tuple[ImageRecord, Tensor]]:
            record, future = ahead.popleft()
            try:
                yield record, future.result()
            except BadSampleError as error:
                skipped.append(Skipped.of(record.key, error))

        with ThreadPoolExecutor(self.threads) as pool:
            for row in rows:
                record = self.manifest[row]
                ahead.append((record, pool.submit(self._read, record, size)))
                if len(ahead) > self.settings.batch_size + self.threads:
                    yield from oldest()
            while ahead:
                yield from oldest()

    def _read(self, record: ImageRecord, size: Size) -> Tensor:
        if not any(caption.strip() for caption in record.captions):
            raise BadSampleError(Reason.NO_CAPTION, f"it has {len(record.captions)} captions, none with a word")
        if self.scored and len(record.captions) > 1 and None in record.scores:
            raise BadSampleError(Reason.NO_SCORE, f"it has {len(record.captions)} captions, and others have scores")
        return fitted(read_image(self.manifest.bytes_of(record)), *size)

    def _checked(self, latent: Tensor, size: Size) -> Tensor:
        wanted = (self.encoders.channels, size[0] // self.encoders.f, size[1] // self.encoders.f)
        if tuple(latent.shape) != wanted:
            raise BadSampleError(Reason.WRONG_LATENT, f"it is {tuple(latent.shape)}; it must be {wanted}")
        if not latent.isfinite().all():
            raise BadSampleError(Reason.NOT_FINITE, "the autoencoder overflowed: encode in a wider dtype")
        return latent

    def _captions(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        parts = [self.encoders.captions(batch) for batch in batched(texts, self.settings.batch_size)]
        states, masks = zip(*parts, strict=True)
        return torch.cat([part.cpu() for part in states]), torch.cat([part.cpu().bool() for part in masks])


def _best_captions(record: ImageRecord, count: int | None) -> tuple[list[str], list[float]]:
    """The captions to encode, in the manifest's order, and their scores, 0 where they have none."""
    scores = [0.0 if score is None else score for score in record.scores]
    usable = [index for index, caption in enumerate(record.captions) if caption.strip()]
    best = sorted(sorted(usable, key=lambda index: -scores[index])[:count])
    return [record.captions[index] for index in best], [scores[index] for index in best]
