"""What a training run is, apart from its model, objective, optimizer and data."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """One training run.

    The learning rate of each optimizer group rises linearly over `warmup_steps`, stays, and falls linearly to
    `final_lr_factor` of itself over the last `decay_steps`.

    Attributes:
        run_dir: folder of the run: `checkpoints/`, `metrics.jsonl`, and `model/`, the averaged weights.
        steps: optimizer steps of the whole run.
        seed: names every random draw of the run (see `Draws`).
        grad_clip: largest global gradient norm, or None.
        ema_decay: per-step decay of the weight average once warmed up (see `EMA`).
        precision: "bf16" runs forward and backward under autocast; weights and optimizer stay in fp32.
        checkpoint_every: steps between checkpoints; the last step always writes one.
        keep_checkpoints: how many of the newest checkpoints stay on disk.
        log_every: steps between lines of `metrics.jsonl`.
        workers: processes that prepare batches ahead; 0 prepares each in the training process, when it is needed.
        progress: whether to show a progress bar.
    """

    run_dir: str
    steps: int
    seed: int = 0
    warmup_steps: int = 0
    decay_steps: int = 0
    final_lr_factor: float = 0.0
    grad_clip: float | None = 1.0
    ema_decay: float = 0.9999
    precision: Literal["fp32", "bf16"] = "fp32"
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2
    log_every: int = 50
    workers: int = 0
    progress: bool = True

    def __post_init__(self) -> None:
        for name in ("steps", "checkpoint_every", "keep_checkpoints", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("warmup_steps", "decay_steps", "workers"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")
        if self.warmup_steps + self.decay_steps > self.steps:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} and decay_steps {self.decay_steps} do not fit into "
                f"steps {self.steps}: shorten them or train longer"
            )
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay is {self.ema_decay}; it must be in [0, 1)")
        if self.grad_clip is not None and self.grad_clip <= 0:
            raise ValueError(f"grad_clip is {self.grad_clip}; it must be positive, or None for no clipping")
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"precision is {self.precision!r}; it must be 'fp32' or 'bf16'")

    def lr_factor(self, step: int) -> float:
        """The factor on every learning rate at optimizer step `step` (0-based)."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        decayed = min(step + 1 - (self.steps - self.decay_steps), self.decay_steps)
        if decayed <= 0:
            return 1.0
        return 1.0 - (1.0 - self.final_lr_factor) * decayed / self.decay_steps
