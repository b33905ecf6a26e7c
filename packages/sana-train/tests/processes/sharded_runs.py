"""Runs of one and of two processes, for a test to compare: python sharded_runs.py FOLDER."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from forked import together
from torch import nn

from sana_train import CAME8bit, FlowMatching, FlowValidation, TrainConfig, Trainer

BATCH = 4
LENGTHS = (3, 9, 2, 33)  # of captions: the second process has longer ones than the first
POISONED = 4  # the step whose last sample, which the last process gets, is not a number


class Blocks(nn.Module):
    """A velocity model whose shapes do not divide evenly, with blocks to shard and one weight in 8-bit state."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(4, 131)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(131, 131), nn.SiLU()) for _ in range(2))
        self.last = nn.Linear(131, 4)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, latents, timestep, caption, caption_mask):
        self.seen += 1
        pooled = (caption * caption_mask[..., None]).sum(1, keepdim=True)
        x = self.first(latents.flatten(2).mT) + timestep.view(-1, 1, 1) / 1000 + pooled
        for block in self.blocks:
            x = x + block(x)
        return self.last(x).mT.reshape(latents.shape).clone()  # FSDP2 warns of views


class Normed(nn.Module):
    """Its batch-norm statistics are of each process's own samples."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.BatchNorm2d(4)
        self.blocks = nn.ModuleList([nn.Conv2d(4, 4, 1)])

    def forward(self, latents, timestep, caption, caption_mask):
        return self.blocks[0](self.norm(latents))


def batches(step: int) -> dict[str, object]:
    generator = torch.Generator().manual_seed(step)
    latents = torch.randn(BATCH, 4, 3, 3, generator=generator)
    if step == POISONED:
        latents[-1] = float("nan")
    return {
        "latents": latents,
        "caption": torch.randint(-1, 2, (BATCH, 40, 1), generator=generator) / 64,  # their sums do not round
        "caption_mask": (torch.arange(40) < torch.tensor(LENGTHS)[:, None]).float(),
        "key": [f"{step}-{slot}" for slot in range(BATCH)],
    }


def make_trainer(
    run_dir: Path,
    steps: int = 6,
    validation: FlowValidation | None = None,
    make_model: Callable[[], nn.Module] = Blocks,
    **changes: object,
) -> Trainer:
    settings = {"warmup_steps": 2, "checkpoint_every": 3, "log_every": 1, "progress": False, "plots": False} | changes
    return Trainer.start_or_resume(
        make_model(),
        FlowMatching(),
        lambda model: CAME8bit(model.parameters(), 1e-3),
        batches,
        TrainConfig(run_dir=str(run_dir), steps=steps, **settings),
        validation=validation,
        allow_changes=True,
    )


def train_normed(run_dir: Path, steps: int) -> list[float]:
    """The batch-norm statistics that one process ends with."""
    trainer = make_trainer(run_dir, steps, make_model=Normed, checkpoint_every=2)
    trainer.fit()
    model = trainer.model
    assert isinstance(model, Normed)
    return [*model.norm.running_mean.tolist(), *model.norm.running_var.tolist()]


def refused(run_dir: Path, **options: object) -> str:
    """Why there is no Trainer."""
    try:
        make_trainer(run_dir, **options)
    except ValueError as error:
        return str(error)
    return ""


def train_twice(run_dir: Path) -> str:
    model = make_trainer(run_dir).model
    return refused(run_dir, make_model=lambda: model)


def train(run_dir: Path, steps: int = 6, **options: object) -> None:
    make_trainer(run_dir, steps, **options).fit()


def main(folder: Path) -> None:
    done = {
        "straight": together(2, lambda rank: train_normed(folder / "normed", 4)),
        "again": together(2, lambda rank: train_normed(folder / "normed", 4)),
        "stopped": together(2, lambda rank: train_normed(folder / "normed-stopped", 3)),
        "resumed": together(2, lambda rank: train_normed(folder / "normed-stopped", 4)),
    }
    (folder / "normed.json").write_text(json.dumps(done))
    (folder / "twice.json").write_text(json.dumps(together(2, lambda rank: train_twice(folder / "twice"))))
    together(2, lambda rank: train(folder / "two"))
    held_out = FlowValidation(batches(99), objective=FlowMatching())
    validated = {"validation": held_out, "validate_every": 1, "checkpoint_every": 6}
    together(2, lambda rank: train(folder / "validated", **validated))
    together(2, lambda rank: train(folder / "stopped", 3))
    together(2, lambda rank: train(folder / "stopped", background_checkpoints=True))
    together(2, lambda rank: train(folder / "bf16", precision="bf16", activation_checkpointing=True))
    together(4, lambda rank: train(folder / "copies", 3, shard_over=2))
    shutil.copytree(folder / "copies", folder / "gathered")
    together(4, lambda rank: train(folder / "copies", shard_over=2))
    together(2, lambda rank: train(folder / "gathered"))
    (folder / "odd.json").write_text(json.dumps(together(2, lambda rank: refused(folder / "odd", shard_over=3))))
    shutil.copytree(folder / "two", folder / "moved")
    shutil.rmtree(folder / "moved" / "checkpoints" / "step-00000006")
    train(folder / "moved")
    train(folder / "one")
    train(folder / "one-bf16", precision="bf16")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
