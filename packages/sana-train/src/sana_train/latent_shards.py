"""Batches from a folder of encoded samples, in an order that is a pure function of (seed, epoch)."""

import warnings
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sana_train.draws import Draws
from sana_train.objective import Batch
from sana_train.shard_files import OpenShard, ShardHeader, read_header


class LatentShards:
    """The batches of a folder of shards (see `write_shard`), each of one size of latents.

    An epoch deals the samples of each size into batches in a new order and shuffles the batches of all sizes; what
    does not fill a batch waits for another epoch. Tensors are read when a batch asks for them, by the process that
    asks: objects of this class go to worker processes as they are.

    Args:
        folder: holds the shards, `*.safetensors`.
        batch_size: samples of the global batch.
        seed: names the order.

    Raises:
        FileNotFoundError: the folder is not there or holds no shard.
        ValueError: a shard is damaged, shards do not go together, or no size has samples for one batch.
    """

    def __init__(self, folder: str | Path, *, batch_size: int, seed: int = 0) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        self.headers = _read_headers(Path(folder))
        self.batch_size = batch_size
        self.seed = seed
        self._ends = list(accumulate(header.samples for header in self.headers))
        self._groups = self._full_groups()
        self._order: tuple[int, Tensor] | None = None
        self._open: dict[int, OpenShard] = {}

    @property
    def samples(self) -> int:
        """How many samples the shards hold together."""
        return self._ends[-1]

    @property
    def steps_per_epoch(self) -> int:
        """Batches in which each sample comes at most once."""
        return sum(len(group) // self.batch_size for group in self._groups.values())

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
        return list(self._groups)

    def __call__(self, step: int) -> Batch:
        """The global batch of a step: latents (B, C, h, w) times the scaling factor, caption, caption_mask, key."""
        return self.part(step, range(self.batch_size))

    def part(self, step: int, slots: Sequence[int]) -> Batch:
        """Only the samples of the global batch at `slots`; nothing else is read."""
        epoch, place = divmod(step, self.steps_per_epoch)
        samples = self._epoch_order(epoch)[place][list(slots)]
        return self._read(samples.tolist())

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}, "_order": None}  # a mapped file cannot go to another process

    def _full_groups(self) -> dict[tuple[int, int], Tensor]:
        """Size -> the samples of that size, for the sizes that fill a batch."""
        groups = defaultdict(list)
        for header, end in zip(self.headers, self._ends, strict=True):
            groups[header.size].append(torch.arange(end - header.samples, end))
        joined = {size: torch.cat(parts) for size, parts in sorted(groups.items())}
        full = {size: group for size, group in joined.items() if len(group) >= self.batch_size}
        if not full:
            most = max(len(group) for group in joined.values())
            raise ValueError(
                f"batch_size is {self.batch_size}, but {self.headers[0].path.parent} has at most {most} samples of one "
                "size: make it smaller, or encode more"
            )
        for size in joined.keys() - full.keys():
            warnings.warn(
                f"the {len(joined[size])} samples of {size[0]}x{size[1]} cells do not fill a batch of "
                f"{self.batch_size} and are never used",
                stacklevel=3,
            )
        return full

    def _epoch_order(self, epoch: int) -> Tensor:
        """The samples of each step of an epoch (steps, B)."""
        if self._order is None or self._order[0] != epoch:
            draws = Draws(self.seed, epoch, ())
            batches = [
                group[_permutation(len(group), draws.key(f"order/{size}"))][
                    : len(group) // self.batch_size * self.batch_size
                ]
                for size, group in self._groups.items()
            ]
            table = torch.cat(batches).view(-1, self.batch_size)
            self._order = epoch, table[_permutation(len(table), draws.key("order"))]
        return self._order[1]

    def _read(self, samples: list[int]) -> Batch:
        rows, keys, scales = [], [], []
        for sample in samples:
            number = bisect_right(self._ends, sample)
            header, shard = self.headers[number], self._shard(number)
            index = sample - (self._ends[number] - header.samples)
            rows.append(shard.sample(index))
            keys.append(shard.keys[index])
            scales.append(header.scaling_factor)
        batch: Batch = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
        batch["latents"] = batch["latents"].float() * torch.tensor(scales).view(-1, 1, 1, 1)
        return batch | {"key": keys}

    def _shard(self, number: int) -> OpenShard:
        if number not in self._open:
            self._open[number] = OpenShard(self.headers[number].path)
        return self._open[number]


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


def _permutation(size: int, seed: int) -> Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))
