"""What a trainer needs of the world: a loss and the batch of each step."""

from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from sana_train.draws import Draws

Batch = dict[str, Any]


class Objective(Protocol):
    """The loss of a batch: a scalar that can be differentiated. Everything random comes from `draws`.

    It is the mean over the batch's samples, so that a step is the same however its batch is divided.
    """

    def __call__(self, model: nn.Module, batch: Batch, draws: Draws, /) -> Tensor:
        """Return the loss of `batch`."""


class Batches(Protocol):
    """The batch of a step, as a pure function of the step: resuming needs no replay."""

    def __call__(self, step: int, /) -> Batch:
        """Return the whole batch of optimizer step `step`: a dict with `key`, one name per sample.

        Each entry is a tensor or a list with one item per sample. `caption` (B, L, Dc) on the CPU is cut to the
        longest that `caption_mask` (B, L) leaves, rounded up to 16 tokens, before an objective sees it, unless blocks
        are compiled (`TrainConfig.compile`).
        """


@runtime_checkable
class DividedBatches(Protocol):
    """Batches that can be prepared in part, so that no process prepares more than its share."""

    batch_size: int

    def part(self, step: int, slots: range, /) -> Batch:
        """Return the samples at `slots`, out of range(batch_size), of the batch of `step`."""
