"""An exponential moving average of a model's weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EMA:
    """Keeps `average = d * average + (1 - d) * weight` in fp32 for every parameter.

    The decay warms up as d = min(decay, (1 + n) / (10 + n)) after n updates, so that the random start is forgotten.
    It is updated after the optimizer has stepped. Buffers are not averaged: batch-norm statistics are averages already.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self._weights = dict(model.named_parameters())
        self.averages = {name: weight.detach().float().clone() for name, weight in self._weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the model's present weights into the average."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        weights = [weight.detach().float() for weight in self._weights.values()]
        torch._foreach_lerp_(list(self.averages.values()), weights, 1 - decay)
        self.updates += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within this context the model carries the averaged weights."""
        originals = {name: weight.detach().clone() for name, weight in self._weights.items()}
        self._write(self.averages)
        try:
            yield
        finally:
            self._write(originals)

    def state_dict(self) -> dict[str, Tensor | int | dict[str, Tensor]]:
        """Everything that `load_state_dict` needs."""
        return {"updates": self.updates, "averages": self.averages}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Restore what `state_dict` gave; the parameter names must be the same."""
        averages, updates = state["averages"], state["updates"]
        assert isinstance(averages, dict)
        assert isinstance(updates, int)
        if averages.keys() != self.averages.keys():
            changed = sorted(averages.keys() ^ self.averages.keys())
            raise ValueError(f"the saved average and the model differ in {len(changed)} parameters: {changed[:3]} ...")
        for name, average in averages.items():
            self.averages[name].copy_(average)
        self.updates = updates

    @torch.no_grad()
    def _write(self, values: dict[str, Tensor]) -> None:
        for name, weight in self._weights.items():
            weight.copy_(values[name])
