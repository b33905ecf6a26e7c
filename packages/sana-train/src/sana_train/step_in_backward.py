"""Update each parameter inside the backward pass, so that the whole set of gradients never exists."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sana_train.checkpointing.optimizer_state import step_one
from sana_train.growth.schedule import FROZEN


class StepInBackward:
    """Within `updating()`, steps `optimizer` for a parameter as soon as its gradient is there, and frees the gradient.

    The result is that of an ordinary step: a block's backward needs its weights only until its own gradients are
    there. What it cannot do is look at all gradients before the first update: there is no clipping by the global norm,
    and a tensor whose gradient is not finite is left out alone.

    Raises:
        ValueError: the optimizer updates several matrices as one, or some parameters wait for a grown model's new ones.

    Attributes:
        updated: how many tensors the present or last backward pass updated.
        skipped: how many it left out.
        square_norm: sum of the squares of its gradients, 0-dim, or None before the first.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        if any(group.get("joined") for group in optimizer.param_groups):
            raise ValueError(
                "step_in_backward with joined matrices: their gradients never exist together, so choose one"
            )
        if frozen := max(group.get(FROZEN, 0) for group in optimizer.param_groups):
            raise ValueError(
                f"step_in_backward with frozen_steps {frozen}: within one backward pass some old parameters would "
                "still wait for the new blocks and others no longer, so choose one"
            )
        self.optimizer = optimizer
        self.updated = self.skipped = 0
        self.square_norm: Tensor | None = None
        self._group_of = {
            parameter: number for number, group in enumerate(optimizer.param_groups) for parameter in group["params"]
        }

    @contextmanager
    def updating(self) -> Iterator[None]:
        """Count from zero, and update in the backward pass of this context; one outside updates nothing."""
        self.updated, self.skipped, self.square_norm = 0, 0, None
        with ExitStack() as hooks:
            for parameter in filter(lambda p: p.requires_grad, self._group_of):
                hooks.callback(parameter.register_post_accumulate_grad_hook(self._update).remove)
            yield

    @torch.no_grad()
    def _update(self, parameter: Tensor) -> None:
        assert isinstance(parameter, nn.Parameter)
        assert parameter.grad is not None
        square = parameter.grad.float().square().sum()
        if square.isfinite():  # waits for the GPU: no optimizer can take a step back
            step_one(self.optimizer, self.optimizer.param_groups[self._group_of[parameter]], parameter)
            self.updated += 1
        else:
            self.skipped += 1
        self.square_norm = square if self.square_norm is None else self.square_norm + square
        parameter.grad = None
