"""One optimizer step: learning rate, gradients of this process's micro-batches, a verdict, the update, the average."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from sana_train.config import TrainConfig
from sana_train.distributed import share_first, summed, summing_dtype, world_size
from sana_train.draws import Draws
from sana_train.ema import EMA
from sana_train.guards import SpikeGuard
from sana_train.objective import Batch, Objective
from sana_train.step_in_backward import StepInBackward
from sana_train.stop_request import StopRequest
from sana_train.upcoming import Share, on_device


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step did; the same on every process.

    Attributes:
        loss: mean over the step's whole batch.
        grad_norm: global norm before clipping.
        lr: learning rate of the first group.
        skipped: why weights, optimizer, average and buffers were left as they were, or None. With `step_in_backward`
            some gradients may have been used before others were found not to be finite: it says how many were left out.
        stop: whether any process has been asked to stop.
    """

    loss: float
    grad_norm: float
    lr: float
    skipped: str | None
    stop: bool


class TrainStep:
    """Takes optimizer steps of one model; whatever is random in them depends on the step and the slot alone."""

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        optimizer: Optimizer,
        ema: EMA | None,
        guard: SpikeGuard,
        *,
        config: TrainConfig,
    ) -> None:
        self.model = model
        self.objective = objective
        self.optimizer = optimizer
        self.ema = ema
        self.guard = guard
        self.config = config
        self.base_lrs = [group["lr"] for group in optimizer.param_groups]
        self.in_backward = StepInBackward(optimizer) if config.step_in_backward else None

    def __call__(self, share: Share, stop: StopRequest | None = None) -> StepResult:
        """Take the step of `share.step`, unless its loss or gradient is not finite or a spike."""
        self._set_learning_rates(share.step)
        before = [buffer.clone() for buffer in self.model.buffers()]
        take = self._step if self.in_backward is None else self._step_in_backward
        loss, grad_norm, skipped, stopped = take(share, stop or StopRequest())
        self.optimizer.zero_grad(set_to_none=True)
        if skipped is not None:  # batch-norm statistics have seen the batch already
            for buffer, value in zip(self.model.buffers(), before, strict=True):
                buffer.copy_(value)
        share_first(self.model.buffers())  # batch-norm statistics are of each process's own samples
        moved = skipped is None or (self.in_backward is not None and self.in_backward.updated > 0)
        if moved and self.ema is not None:
            self.ema.update()
        return StepResult(loss, grad_norm, self.optimizer.param_groups[0]["lr"], skipped, stopped)

    def _set_learning_rates(self, step: int) -> None:
        factor = self.config.lr_factor(step)
        for group, lr in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = lr * factor

    def _step(self, share: Share, stop: StopRequest) -> tuple[float, float, str | None, bool]:
        """All gradients, then the verdict, which is the same everywhere since its numbers are; then the update."""
        total = torch.zeros((), dtype=summing_dtype(self._device), device=self._device)
        for slots, batch in share.micro_batches():
            loss = self._loss(share.step, slots, batch) / len(share.batches)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        loss_sum, stops = summed(torch.stack([total, torch.full_like(total, stop.made)])).tolist()
        loss_mean = loss_sum / world_size()
        norm = gradient_norm(self.model)
        if self.config.grad_clip is not None:
            nn.utils.clip_grads_with_norm_(self.model.parameters(), self.config.grad_clip, norm)
        grad_norm = (norm.full_tensor() if isinstance(norm, DTensor) else norm).item()
        skipped = self.guard.verdict(loss_mean, grad_norm)
        if skipped is None:
            self.optimizer.step()
        return loss_mean, grad_norm, skipped, stops > 0

    def _step_in_backward(self, share: Share, stop: StopRequest) -> tuple[float, float, str | None, bool]:
        """The verdict is on the loss alone: when the gradient is known, it has been used."""
        assert self.in_backward is not None
        ((slots, batch),) = share.micro_batches()
        with self.in_backward.updating():
            loss = self._loss(share.step, slots, batch)
            value = loss.item()
            if skipped := self.guard.verdict(value, None):
                return value, float("nan"), skipped, stop.made
            loss.backward()  # type: ignore[no-untyped-call]
        if self.in_backward.skipped:
            skipped = (
                f"{self.in_backward.skipped} gradients are not finite; {self.in_backward.updated} others were used"
            )
        square = self.in_backward.square_norm
        return value, 0.0 if square is None else square.sqrt().item(), skipped, stop.made

    def _loss(self, step: int, slots: range, batch: Batch) -> Tensor:
        draws = Draws(self.config.seed, step, slots)
        # Dropout and the like draw from the global generator: each micro-batch from a seed of its own.
        torch.manual_seed(draws.key(f"layers/{slots.start}"))
        with autocast(self._device, self.config):
            return self.objective(self.model, on_device(batch, self._device), draws)

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device


def gradient_norm(model: nn.Module) -> Tensor:
    """The global norm of all gradients in fp32; summed in bf16, that of 1.6B parameters is off by 1 in 400."""
    grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    if all(grad.dtype == torch.float32 for grad in grads):
        return nn.utils.get_total_norm(grads)
    norms = [torch.linalg.vector_norm(grad, dtype=torch.float32) for grad in grads]
    total: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return total


def autocast(device: torch.device, config: TrainConfig) -> torch.autocast:
    """What the model runs under in training and evaluation.

    Where activations are recomputed nothing else keeps a bf16 copy of each weight, so autocast must not either.
    """
    enabled, keep = config.precision == "bf16", not config.activation_checkpointing
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled, cache_enabled=keep)
