"""The order that training meets its samples in."""

import torch
from torch import Tensor


class EpochOrder:
    """Which of `count` samples (B,) a step takes, as a pure function of the step: every epoch shuffles anew."""

    def __init__(self, count: int, batch_size: int, *, seed: int = 0) -> None:
        self.count = count
        self.batch_size = batch_size
        self.seed = seed
        self._latest = (-1, torch.empty(0, dtype=torch.long))

    def __call__(self, step: int) -> Tensor:
        """The samples of one step."""
        epoch, place = divmod(step, self.count // self.batch_size)
        if self._latest[0] != epoch:
            generator = torch.Generator().manual_seed(1000 * self.seed + epoch)
            self._latest = epoch, torch.randperm(self.count, generator=generator)
        return self._latest[1][place * self.batch_size : (place + 1) * self.batch_size]
