"""The one training loop: draw, loss, gradient, step, average, and a checkpoint now and then."""

import dataclasses
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import save_model
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from sana_train.checkpoint import (
    CheckpointError,
    list_checkpoints,
    load_newest_checkpoint,
    replace_folder,
    save_checkpoint,
)
from sana_train.config import TrainConfig
from sana_train.draws import Draws
from sana_train.ema import EMA
from sana_train.objective import Batch, Batches, Objective


class Trainer:
    """Trains `model` on `batches` and keeps the run in `config.run_dir`.

    The run can be killed at any instant: `Trainer.resume` goes on from the newest checkpoint and ends in the same
    weights as a run that was never stopped, bit for bit on the same machine.

    The folder `run_dir/model` holds the averaged weights, written by the model's own `save_pretrained(dir)` where it
    has one, else as `model.safetensors`.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        optimizer: Optimizer,
        batches: Batches,
        config: TrainConfig,
    ) -> None:
        self.model = model
        self.objective = objective
        self.optimizer = optimizer
        self.batches = batches
        self.config = config
        self.step = 0
        self.ema = EMA(model, config.ema_decay)
        self.run_dir = Path(config.run_dir)
        self._base_lrs = [group["lr"] for group in optimizer.param_groups]

    @classmethod
    def resume(
        cls,
        run_dir: str | Path,
        model: nn.Module,
        objective: Objective,
        optimizer: Optimizer,
        batches: Batches,
        config: TrainConfig,
    ) -> Self:
        """A trainer that goes on where the newest checkpoint of `run_dir` stopped.

        Raises:
            CheckpointError: there is no checkpoint, or the run was started with another configuration.
        """
        trainer = cls(model, objective, optimizer, batches, dataclasses.replace(config, run_dir=str(run_dir)))
        trainer._load(load_newest_checkpoint(trainer.run_dir / "checkpoints"))
        return trainer

    @classmethod
    def start_or_resume(
        cls, model: nn.Module, objective: Objective, optimizer: Optimizer, batches: Batches, config: TrainConfig
    ) -> Self:
        """Resume the run of `config.run_dir` where it has a checkpoint, else start it: what a command does."""
        if list_checkpoints(Path(config.run_dir) / "checkpoints"):
            return cls.resume(config.run_dir, model, objective, optimizer, batches, config)
        return cls(model, objective, optimizer, batches, config)

    def fit(self) -> None:
        """Train to the last step; `run_dir/model` then holds the result.

        Raises:
            CheckpointError: a new run would write over the one that `run_dir` holds.
        """
        config = self.config
        self.run_dir.mkdir(parents=True, exist_ok=True)
        if self.step == 0 and list_checkpoints(self.run_dir / "checkpoints"):
            raise CheckpointError(f"{self.run_dir} holds a run: go on with Trainer.resume, or give another run_dir")
        if self.step:
            self._save_model()  # a kill may have come between the checkpoint and its model
        self._forget_metrics_after(self.step)
        self.model.train()
        started, first = time.monotonic(), self.step
        with tqdm(total=config.steps, initial=self.step, unit="step", disable=not config.progress) as bar:
            for batch in self._upcoming():
                metrics = self.train_step(batch)
                bar.update()
                if self.step % config.log_every == 0 or self.step == config.steps:
                    bar.set_postfix(loss=f"{metrics['loss']:.4f}")
                    seconds = (time.monotonic() - started) / (self.step - first)
                    self._log({"step": self.step, **metrics, "seconds_per_step": round(seconds, 4)})
                if self.step % config.checkpoint_every == 0 or self.step == config.steps:
                    self.save()

    def train_step(self, batch: Batch) -> dict[str, float]:
        """One optimizer step on the batch of `self.step`; returns its loss, gradient norm and learning rate.

        Raises:
            FloatingPointError: the loss or a gradient is not finite; the weights are then still those before the step.
        """
        factor = self.config.lr_factor(self.step)
        for group, lr in zip(self.optimizer.param_groups, self._base_lrs, strict=True):
            group["lr"] = lr * factor
        loss = self._loss(batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        limit = float("inf") if self.config.grad_clip is None else self.config.grad_clip
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        if not (loss.isfinite() and norm.isfinite()):
            raise FloatingPointError(
                f"step {self.step}: loss {loss.item()}, gradient norm {norm.item()}, "
                f"batch {list(batch['key'])[:8]}: look at this batch, or lower the learning rate"
            )
        self.optimizer.step()
        self.ema.update()
        self.step += 1
        return {"loss": loss.item(), "grad_norm": norm.item(), "lr": self.optimizer.param_groups[0]["lr"]}

    def save(self) -> None:
        """Write a checkpoint and the averaged model."""
        state = {
            "step": self.step,
            "config": dataclasses.asdict(self.config),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict(),
            "base_lrs": self._base_lrs,
        }
        save_checkpoint(self.run_dir / "checkpoints", state, step=self.step, keep=self.config.keep_checkpoints)
        self._save_model()

    def _save_model(self) -> None:
        with self.ema.applied():
            replace_folder(self.run_dir / "model", self._export)

    def _upcoming(self) -> Iterable[Batch]:
        steps = _Steps(self.batches, range(self.step, self.config.steps))
        ahead = 4 if self.config.workers else None
        return DataLoader(steps, batch_size=None, num_workers=self.config.workers, prefetch_factor=ahead)

    def _loss(self, batch: Batch) -> Tensor:
        device = next(self.model.parameters()).device
        batch = {name: x.to(device) if isinstance(x, Tensor) else x for name, x in batch.items()}
        draws = Draws(self.config.seed, self.step, range(len(batch["key"])))
        torch.manual_seed(draws.key("layers"))  # dropout and the like, which draw from the global generator
        with torch.autocast(device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            return self.objective(self.model, batch, draws)

    def _export(self, folder: Path) -> None:
        save_pretrained = getattr(self.model, "save_pretrained", None)
        if save_pretrained is None:
            save_model(self.model, str(folder / "model.safetensors"))
        else:
            save_pretrained(folder)

    def _load(self, state: dict[str, Any]) -> None:
        then, now = state["config"], dataclasses.asdict(self.config)
        free = {"run_dir", "checkpoint_every", "keep_checkpoints", "log_every", "workers", "progress"}
        changed = [f"{k} {then[k]} -> {now[k]}" for k in now if k not in free and then.get(k) != now[k]]
        if changed:
            raise CheckpointError(
                f"{self.run_dir} was started otherwise ({', '.join(changed)}): use the same configuration"
            )
        try:
            self.model.load_state_dict(state["model"])
        except RuntimeError as error:
            raise CheckpointError(f"{self.run_dir} holds a run of another model: {error}") from error
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.load_state_dict(state["ema"])
        self.step = state["step"]
        self._base_lrs = state["base_lrs"]

    def _log(self, metrics: dict[str, float]) -> None:
        with (self.run_dir / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(metrics) + "\n")

    def _forget_metrics_after(self, step: int) -> None:
        """Drop the lines of steps that are about to be done again, and a line that a kill has cut in half."""
        path = self.run_dir / "metrics.jsonl"
        if not path.exists():
            return
        lines = [line for line in path.read_text().splitlines() if _step_of(line) <= step]
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(line + "\n" for line in lines))
        temporary.replace(path)


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # cut or damaged: drop it


class _Steps(Dataset[Batch]):
    """The batches of some steps, for a loader; its workers take any step, since a batch is a function of it."""

    def __init__(self, batches: Batches, steps: range) -> None:
        self.batches = batches
        self.steps = steps

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: int) -> Batch:
        return self.batches(self.steps[index])
