"""Update each parameter inside the backward pass, so that the whole set of gradients never exists."""

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sana_train.optimizer_state import step_one


class StepInBackward:
    """Steps `optimizer` for a parameter as soon as its gradient is accumulated, and frees the gradient.

    The result is that of an ordinary step: a block's backward needs its weights only until its own gradients are
    there. What it cannot do is look at all gradients before the first update: there is no clipping by the global norm,
    and a tensor whose gradient is not finite is left out alone.

    Raises:
        ValueError: the optimizer updates several matrices as one.

    Attributes:
        skipped: how many tensors the present step left out.
        square_norm: sum of the squares of the present step's gradients, 0-dim, or None before the first.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        if any(group.get("joined") for group in optimizer.param_groups):
            raise ValueError(
                "step_in_backward with joined matrices: their gradients never exist together, so choose one"
            )
        self.optimizer = optimizer
        self.skipped = 0
        self.square_norm: Tensor | None = None
        self._group_of = {
            parameter: number for number, group in enumerate(optimizer.param_groups) for parameter in group["params"]
        }
        for parameter in filter(lambda p: p.requires_grad, self._group_of):
            parameter.register_post_accumulate_grad_hook(self._update)

    def begin(self) -> None:
        """Forget the last step's counts."""
        self.skipped, self.square_norm = 0, None

    @torch.no_grad()
    def _update(self, parameter: Tensor) -> None:
        assert isinstance(parameter, nn.Parameter)
        assert parameter.grad is not None
        square = parameter.grad.float().square().sum()
        if square.isfinite():
            step_one(self.optimizer, self.optimizer.param_groups[self._group_of[parameter]], parameter)
        else:
            self.skipped += 1
        self.square_norm = square if self.square_norm is None else self.square_norm + square
        parameter.grad = None
