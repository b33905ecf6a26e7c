"""What a training run is, apart from its model, objective, optimizer and data."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal

# What may differ between a run and its resumption: nothing of it changes the weights.
_FREE = {
    "run_dir", "checkpoint_every", "keep_checkpoints", "background_checkpoints", "log_every", "validate_every",
    "sample_every", "workers", "progress", "tensorboard", "plots", "ema_offload", "shard_over",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """One training run.

    The learning rate of each optimizer group rises linearly over `warmup_steps`, stays, and falls linearly to
    `final_lr_factor` of itself over the last `decay_steps`.

    Attributes:
        run_dir: folder of the run: `checkpoints/`, `metrics.jsonl`, plots, and `model/`, the averaged weights.
        steps: optimizer steps of the whole run.
        seed: names every random draw of the run (see `Draws`).
        warmup_steps: steps of rising learning rate; CAME without bias correction needs some.
        decay_steps: steps of falling learning rate, at the end.
        final_lr_factor: what is left of the learning rate at the last step.
        accumulate: micro-batches per optimizer step and process; the batch of a step is divided among them. The
            gradients of each are summed over processes at once: until the last one, each process would have to hold
            those of the whole model.
        grad_clip: largest global gradient norm, or None.
        ema_decay: per-step decay of the weight average once warmed up (see `EMA`); None keeps no average, and
            `model/` then holds the weights themselves.
        ema_offload: keep the average in CPU memory (one process only; with several it is sharded already).
        precision: "bf16" runs forward and backward under autocast, and gathers sharded weights in bf16. Weights and
            optimizer keep their own dtype, and gradients are summed over processes in fp32.
        activation_checkpointing: recompute each block in the backward pass instead of keeping its activations.
        compile: torch.compile each block, for each size of latents; captions keep their padding, to be of one length.
        step_in_backward: update each parameter as soon as its gradient is there and free the gradient, so that the
            whole set never exists. One process; needs accumulate 1 and grad_clip None.
        shard_over: processes that hold the weights between them, such as the 8 of a node; every so many hold another
            copy, and only gradients go between copies (HSDP). None: all processes, which takes the least memory.
        spike_sigmas: a loss or gradient norm so many standard deviations above its running mean skips the step;
            None skips only what is not finite.
        max_skips: after so many skipped steps in a row, training returns to the last good checkpoint and passes over
            the batches of those steps.
        validate_every: steps between evaluations of the trainer's `validation`; 0 is never.
        sample_every: steps between calls of the trainer's `sample`; 0 is never.
        checkpoint_every: steps between checkpoints; the last step always writes one.
        keep_checkpoints: how many of the newest checkpoints stay on disk.
        background_checkpoints: copy the state to CPU memory and write the checkpoint while training goes on; training
            still waits for `model/` to be written.
        log_every: steps between lines of `metrics.jsonl`.
        workers: processes that prepare batches ahead; 0 prepares each in the training process, when it is needed.
        progress: whether to show a progress bar.
        tensorboard: also write TensorBoard events (extra `tensorboard`).
        plots: draw loss, learning rate and gradient norm with every checkpoint, where matplotlib is installed.
    """

    run_dir: str
    steps: int
    seed: int = 0
    warmup_steps: int = 0
    decay_steps: int = 0
    final_lr_factor: float = 0.0
    accumulate: int = 1
    grad_clip: float | None = 1.0
    ema_decay: float | None = 0.9999
    ema_offload: bool = False
    precision: Literal["fp32", "bf16"] = "fp32"
    activation_checkpointing: bool = False
    compile: bool = False
    step_in_backward: bool = False
    shard_over: int | None = None
    spike_sigmas: float | None = 6.0
    max_skips: int = 5
    validate_every: int = 0
    sample_every: int = 0
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2
    background_checkpoints: bool = False
    log_every: int = 50
    workers: int = 0
    progress: bool = True
    tensorboard: bool = False
    plots: bool = True

    def __post_init__(self) -> None:
        for name in ("steps", "accumulate", "max_skips", "checkpoint_every", "keep_checkpoints", "log_every"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("warmup_steps", "decay_steps", "workers", "validate_every", "sample_every"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")
        for name in ("grad_clip", "spike_sigmas"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}; it must be positive, or None for none")
        if self.shard_over is not None and not self.shard_over >= 1:
            raise ValueError(f"shard_over is {self.shard_over}; it must be at least 1, or None for all processes")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay is {self.ema_decay}; it must be in [0, 1), or None for no average")
        if not 0 <= self.final_lr_factor <= 1:
            raise ValueError(f"final_lr_factor is {self.final_lr_factor}; it must be in [0, 1]")
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"precision is {self.precision!r}; it must be 'fp32' or 'bf16'")
        self._check_combinations()

    def _check_combinations(self) -> None:
        if self.warmup_steps + self.decay_steps > self.steps:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} and decay_steps {self.decay_steps} do not fit into "
                f"steps {self.steps}: shorten them or train longer"
            )
        if self.steps == self.decay_steps == 1 and self.final_lr_factor == 0:
            raise ValueError(
                "steps is 1, decay_steps 1 and final_lr_factor 0: the only step would have a learning rate of 0, so "
                "leave decay_steps out"
            )
        if self.step_in_backward and (self.accumulate > 1 or self.grad_clip is not None):
            raise ValueError(
                f"step_in_backward with accumulate {self.accumulate} and grad_clip {self.grad_clip}: all gradients "
                "never exist together, so accumulate must be 1 and grad_clip None"
            )
        if self.ema_offload and self.ema_decay is None:
            raise ValueError("ema_offload is True and ema_decay None: there is no average to keep in CPU memory")

    def lr_factor(self, step: int) -> float:
        """The factor on every learning rate at optimizer step `step` (0-based)."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        decayed = min(step + 1 - (self.steps - self.decay_steps), self.decay_steps)
        if decayed <= 0:
            return 1.0
        return 1.0 - (1.0 - self.final_lr_factor) * decayed / self.decay_steps

    def as_json(self) -> dict[str, Any]:
        """All fields, as JSON gives them back."""
        fields: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return fields

    def changes_since(self, then: dict[str, Any]) -> list[str]:
        """What differs from an earlier `as_json` and changes the weights, each as "name before -> now"."""
        now = self.as_json()
        return [f"{k} {then[k]} -> {now[k]}" for k in now if k in then and k not in _FREE and then[k] != now[k]]
