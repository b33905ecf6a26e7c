"""Which samples make up the batch of a step, as a pure function of (seed, epoch): the cursor is one integer."""

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from sana_train.draws import Draws

Size = tuple[int, int]


class BucketSampler:
    """Deals the samples of each size into batches, and shuffles the batches of all sizes together.

    Batch `step` is place step % steps_per_epoch of epoch step // steps_per_epoch. There is no state: whoever asks for a
    step, in any process and after any kill, gets the same samples. What does not fill a batch of its size waits for
    another epoch.

    Args:
        groups: the samples of each size (h, w), as int64 numbers.
        batch_size: samples of the global batch.
        seed: names the order.
        where: what error messages call the data.

    Raises:
        ValueError: batch_size is not positive, or no size has samples for one batch.
    """

    def __init__(
        self, groups: Mapping[Size, Tensor], *, batch_size: int, seed: int = 0, where: str = "the data"
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        if not groups:
            raise ValueError(f"{where} has no samples: add some")
        self.batch_size = batch_size
        self.seed = seed
        self.groups = {size: group for size, group in sorted(groups.items()) if len(group) >= batch_size}
        if not self.groups:
            most = max(len(group) for group in groups.values())
            raise ValueError(
                f"batch_size is {batch_size}, but {where} has at most {most} samples of one size: make it smaller, or "
                "add samples"
            )
        for size in sorted(groups.keys() - self.groups.keys()):
            warnings.warn(
                f"the {len(groups[size])} samples of {size[0]}x{size[1]} do not fill a batch of {batch_size} and are "
                "never used",
                stacklevel=3,
            )
        self._order: tuple[int, Tensor] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Batches in which each sample comes at most once."""
        return sum(len(group) // self.batch_size for group in self.groups.values())

    def epoch(self, step: int) -> int:
        """The epoch that a step belongs to."""
        return step // self.steps_per_epoch

    def batch(self, step: int) -> Tensor:
        """The samples of a step (B,)."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, self._deal(epoch)
        return self._order[1][place]

    def _deal(self, epoch: int) -> Tensor:
        """The samples of each step of an epoch (steps, B)."""
        draws = Draws(self.seed, epoch, ())
        dealt = [
            group[_permutation(len(group), draws.key(f"order/{size}"))][
                : len(group) // self.batch_size * self.batch_size
            ]
            for size, group in self.groups.items()
        ]
        table = torch.cat(dealt).view(-1, self.batch_size)
        return table[_permutation(len(table), draws.key("order"))]


def _permutation(size: int, seed: int) -> Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))
