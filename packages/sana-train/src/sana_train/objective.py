"""What a trainer needs of the world: a loss and the batch of each step."""

from typing import Any, Protocol

from torch import Tensor, nn

from sana_train.draws import Draws

Batch = dict[str, Any]


class Objective(Protocol):
    """The loss of a batch: a scalar that can be differentiated. Everything random comes from `draws`."""

    def __call__(self, model: nn.Module, batch: Batch, draws: Draws, /) -> Tensor:
        """Return the loss of `batch`."""


class Batches(Protocol):
    """The batch of a step, as a pure function of the step: resuming needs no replay."""

    def __call__(self, step: int, /) -> Batch:
        """Return the batch of optimizer step `step`, a dict with `key`, one name per sample."""
