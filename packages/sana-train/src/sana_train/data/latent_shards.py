"""Batches from a folder of encoded samples, in an order that is a pure function of (seed, epoch)."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sana_train.data.bucket_sampler import BucketSampler
from sana_train.data.caption_sampler import CaptionSampler
from sana_train.data.shard_files import OpenShard, ShardHeader, read_header
from sana_train.objective import Batch

MAX_OPEN = 512  # shards mapped at a time: Linux lets a process map 65,530 files


class LatentShards:
    """The batches of a folder of shards (see `write_shard`), each of one size of latents.

    An epoch deals the samples of each size into batches in a new order and shuffles the batches of all sizes; what
    does not fill a batch waits for another epoch. Tensors are read when a batch asks for them, by the process that
    asks: objects of this class go to worker processes as they are.

    Args:
        folder: holds the shards, `*.safetensors`.
        batch_size: samples of the global batch.
        seed: names the order, and the captions that are drawn.
        captions: draws one of a sample's captions, anew in each epoch; None is `CaptionSampler()`.

    Raises:
        FileNotFoundError: the folder is not there or holds no shard.
        ValueError: a shard is damaged, shards do not go together, no size has samples for one batch, or there are
            several captions to a sample and no scores to draw them by.
    """

    def __init__(
        self, folder: str | Path, *, batch_size: int, seed: int = 0, captions: CaptionSampler | None = None
    ) -> None:
        self.headers = _read_headers(Path(folder))
        self.captions = captions or CaptionSampler()
        _check_scores(self.headers, self.captions)
        self._ends = list(accumulate(header.samples for header in self.headers))
        self.sampler = BucketSampler(self._groups(), batch_size=batch_size, seed=seed, where=str(folder))
        self._open: dict[int, OpenShard] = {}

    @property
    def batch_size(self) -> int:
        """Samples of the global batch."""
        return self.sampler.batch_size

    @property
    def samples(self) -> int:
        """How many samples the shards hold together."""
        return self._ends[-1]

    @property
    def steps_per_epoch(self) -> int:
        """Batches in which each sample comes at most once."""
        return self.sampler.steps_per_epoch

    @property
    def caption_shape(self) -> tuple[int, int]:
        """Tokens and channels (L, Dc) of every caption."""
        return self.headers[0].caption_shape

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return self.headers[0].latent_shape[0]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """The sizes (h, w) in cells that batches come in."""
        return list(self.sampler.groups)

    def __call__(self, step: int) -> Batch:
        """The global batch of a step: latents (B, C, h, w) times the scaling factor, caption, caption_mask, key."""
        return self.part(step, range(self.batch_size))

    def part(self, step: int, slots: Sequence[int]) -> Batch:
        """Only the samples of the global batch at `slots`; nothing else is read."""
        return self._read(self.sampler.batch(step)[list(slots)].tolist(), self.sampler.epoch(step))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}  # a mapped file cannot go to another process

    def _groups(self) -> dict[tuple[int, int], Tensor]:
        """Size -> the samples of that size."""
        groups = defaultdict(list)
        for header, end in zip(self.headers, self._ends, strict=True):
            groups[header.size].append(torch.arange(end - header.samples, end))
        return {size: torch.cat(parts) for size, parts in groups.items()}

    def _read(self, samples: list[int], epoch: int) -> Batch:
        rows, keys, scales = [], [], []
        for sample in samples:
            number = bisect_right(self._ends, sample)
            header, shard = self.headers[number], self._shard(number)
            index = sample - (self._ends[number] - header.samples)
            key = shard.keys[index]
            caption = self.captions.choose(shard.scores(index), seed=self.sampler.seed, epoch=epoch, key=key)
            rows.append(shard.sample(index, caption))
            keys.append(key)
            scales.append(header.scaling_factor)
        batch: Batch = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
        batch["latents"] = batch["latents"].float() * torch.tensor(scales).view(-1, 1, 1, 1)
        return batch | {"key": keys}

    def _shard(self, number: int) -> OpenShard:
        shard = self._open.pop(number, None) or _opened(self.headers[number])
        self._open[number] = shard  # the last one is the one used last
        if len(self._open) > MAX_OPEN:
            del self._open[next(iter(self._open))]
        return shard


def _opened(header: ShardHeader) -> OpenShard:
    shard = OpenShard(header.path)
    if shard.header != header:
        raise ValueError(
            f"{header.path} has been rewritten since its folder was opened ({shard.header.samples} samples, "
            f"sha256 {shard.header.sha256}; it had {header.samples}, {header.sha256}): put the old file back and "
            "resume, or start a new run"
        )
    return shard


def _read_headers(folder: Path) -> list[ShardHeader]:
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}: give the one that holds the encoded shards")
    headers = [read_header(path) for path in sorted(folder.glob("*.safetensors"))]
    if not headers:
        raise FileNotFoundError(f"{folder} holds no shard (*.safetensors): write some with sana_train.write_shard")
    first = headers[0]
    for header in headers:
        facts = {
            "latent channels": (first.latent_shape[0], header.latent_shape[0]),
            "caption tokens and channels": (first.caption_shape, header.caption_shape),
            "scaling_factor": (first.scaling_factor, header.scaling_factor),
        }
        for name, (ours, theirs) in facts.items():
            if ours != theirs:
                raise ValueError(
                    f"{first.path} has {name} {ours} and {header.path.name} {theirs}: shards of one folder must be "
                    "encoded alike"
                )
    return headers


def _check_scores(headers: list[ShardHeader], captions: CaptionSampler) -> None:
    without = [header for header in headers if header.captions > header.samples and not header.scored]
    if without and captions.needs_scores:
        raise ValueError(
            f"{without[0].path} has {without[0].captions} captions for {without[0].samples} samples and no scores to "
            "draw them by: score the captions and encode again, or draw all alike with CaptionSampler(tau=math.inf)"
        )
