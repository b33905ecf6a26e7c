"""The batches to come, each process's own share of them, prepared ahead by worker processes."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sana_train.caption_padding import without_padding
from sana_train.config import TrainConfig
from sana_train.distributed import rank, share_of, world_size
from sana_train.objective import Batch, Batches, DividedBatches

AHEAD = 4  # batches that each worker prepares in advance


@dataclass(frozen=True, slots=True)
class Share:
    """What this process trains on in one step: some slots of the step's batch, in equal micro-batches."""

    step: int
    slots: range
    batches: tuple[Batch, ...]

    @property
    def keys(self) -> list[str]:
        """The names of all its samples."""
        return [key for batch in self.batches for key in batch["key"]]

    def micro_batches(self) -> Iterator[tuple[range, Batch]]:
        """Yield each micro-batch and its slots."""
        size = len(self.slots) // len(self.batches)
        for start, batch in zip(range(0, len(self.slots), size), self.batches, strict=True):
            yield self.slots[start : start + size], batch

    def pin_memory(self) -> Self:
        """The same in pinned memory, from which a GPU copies while the CPU goes on; the DataLoader calls it."""
        return replace(self, batches=tuple(map(_pinned, self.batches)))


def _pinned(batch: Batch) -> Batch:
    return {name: x.pin_memory() if _is_on_cpu(x) else x for name, x in batch.items()}


def _is_on_cpu(entry: Any) -> bool:
    return isinstance(entry, Tensor) and entry.device.type == "cpu"


def cut(batch: Batch, start: int, size: int) -> Batch:
    """The `size` samples of a batch from `start` on."""
    return {name: entry[start : start + size] for name, entry in batch.items()}


def upcoming(batches: Batches, steps: list[int], config: TrainConfig) -> Iterator[Share]:
    """The shares of this process of the batches of `steps`, in their order."""
    shares = _Shares(batches, steps, config)
    ahead = AHEAD if config.workers else None
    pin = torch.cuda.is_available()
    yield from DataLoader(shares, batch_size=None, num_workers=config.workers, prefetch_factor=ahead, pin_memory=pin)


class _Shares(Dataset[Share]):
    """Any share by its place in the order; a worker may take any, since a batch is a function of its step."""

    def __init__(self, batches: Batches, steps: list[int], config: TrainConfig) -> None:
        self.batches = batches
        self.steps = steps
        self.config = config
        self.process, self.processes = rank(), world_size()  # a worker that is spawned is in no process group

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: int) -> Share:
        step = self.steps[index]
        return share_at(self.batches, step, self.config, process=self.process, processes=self.processes)


def share_at(batches: Batches, step: int, config: TrainConfig, *, process: int, processes: int) -> Share:
    """One process's share of one step, captions without padding unless blocks are compiled.

    Raises:
        ValueError: the batch cannot be divided among the processes and micro-batches.
    """
    if isinstance(batches, DividedBatches):
        slots = share_of(batches.batch_size, config.accumulate, process=process, processes=processes)
        batch, first = batches.part(step, slots), 0
    else:
        batch = batches(step)
        slots = share_of(len(batch["key"]), config.accumulate, process=process, processes=processes)
        first = slots.start
    size = len(slots) // config.accumulate
    if size < len(batch["key"]):
        parts = [cut(batch, start, size) for start in range(first, first + len(slots), size)]
    else:
        parts = [batch]
    # PyTorch 2.13 compiles attention to captions of changing length into a backward pass that raises on a CPU.
    return Share(step, slots, tuple(parts if config.compile else map(without_padding, parts)))


def on_device(batch: Batch, device: Any) -> Batch:
    """The batch with its tensors on `device`."""
    return {name: x.to(device, non_blocking=True) if isinstance(x, Tensor) else x for name, x in batch.items()}
