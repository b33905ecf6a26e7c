"""An exponential moving average of a model's weights, sharded where they are."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from sana_train.came.sharding import local


class EMA:
    """Keeps `average = d * average + (1 - d) * weight` in fp32 for every parameter.

    The decay warms up as d = min(decay, (1 + n) / (10 + n)) after n updates, so that the random start is forgotten.
    It is updated after the optimizer has stepped. Buffers are not averaged: batch-norm statistics are averages already.

    Args:
        model: whose parameters are averaged; DTensors give DTensor averages.
        decay: in [0, 1), the share of the average that each update keeps.
        offload: keep the averages in CPU memory.
    """

    def __init__(self, model: nn.Module, decay: float, *, offload: bool = False) -> None:
        self.decay = decay
        self.updates = 0
        self._weights = dict(model.named_parameters())
        if offload and any(isinstance(weight, DTensor) for weight in self._weights.values()):
            raise ValueError("ema_offload with a sharded model: the average is sharded too, so leave it out")
        device = "cpu" if offload else None
        self.averages = {
            name: weight.detach().to(device=device, dtype=torch.float32, copy=True)
            for name, weight in self._weights.items()
        }

    @torch.no_grad()
    def update(self) -> None:
        """Take the model's present weights into the average."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, weight in self._weights.items():  # one by one: all in fp32 at once would be another set of weights
            average = local(self.averages[name])
            average.lerp_(local(weight.detach()).to(average), 1 - decay)
        self.updates += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within this context the model carries the averaged weights."""
        originals = {
            name: weight.detach().to(self.averages[name].device, copy=True) for name, weight in self._weights.items()
        }
        self._write(self.averages)
        try:
            yield
        finally:
            self._write(originals)

    @torch.no_grad()
    def _write(self, values: dict[str, Tensor]) -> None:
        for name, weight in self._weights.items():
            local(weight).copy_(local(values[name]))
