"""A small but whole training run: blocks, dropout, CAME8bit, an average, shards on disk, 16 steps of 4 samples."""

import os
import sys
from pathlib import Path

import torch
from kill_moments import Moment, watch
from torch import Tensor, nn

from sana_train import CAME8bit, FlowMatching, LatentShards, TrainConfig, Trainer, process_group, write_shard

ELASTIC = Moment("step", 1, "train.update", 6)  # under torchrun the second process is killed here, once
STEPS, STEPS_PER_EPOCH, CHECKPOINT_EVERY, BATCH = 16, 12, 3, 4


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 45), nn.Linear(45, 16)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.dropout(nn.functional.silu(self.up(x))))


class Velocity(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patch, self.out = nn.Conv2d(4, 16, 1), nn.Linear(16, 4)
        self.time, self.caption = nn.Linear(1, 16), nn.Linear(6, 16)
        self.blocks = nn.ModuleList(Block() for _ in range(2))

    def forward(self, latents: Tensor, timestep: Tensor, caption: Tensor, caption_mask: Tensor) -> Tensor:
        sys.audit("train.forward")
        x = self.patch(latents).flatten(2).mT  # (B, hw, 16)
        pooled = (caption * caption_mask[..., None]).sum(1)
        x = x + self.time(timestep[:, None] / 1000)[:, None] + self.caption(pooled)[:, None]
        for block in self.blocks:
            x = block(x)
        if x.requires_grad:
            x.register_hook(lambda gradient: sys.audit("train.backward"))
        return self.out(x).mT.reshape(latents.shape).clone()  # FSDP2 warns of views


def write_data(folder: Path) -> None:
    """Two shards that hold the samples of one epoch."""
    generator = torch.Generator().manual_seed(0)
    for part in range(2):
        count = STEPS_PER_EPOCH * BATCH // 2
        write_shard(
            folder / f"{part}.safetensors",
            torch.randn(count, 4, 2, 2, generator=generator),
            torch.randn(count, 3, 6, generator=generator),
            torch.ones(count, 3),
            keys=[f"{part}-{i}" for i in range(count)],
            scaling_factor=0.5,
        )


def optimizer(model: nn.Module) -> CAME8bit:
    came = CAME8bit(model.parameters(), lr=1e-3, weight_decay=0.01, min_8bit_size=0, block_size=32)
    came.register_step_pre_hook(lambda *_: sys.audit("train.update"))
    came.register_step_post_hook(lambda *_: sys.audit("train.updated"))
    return came


def train(run_dir: Path, data: Path, *, background: bool = False) -> None:
    """Start or resume the run of `run_dir` and train it to its end."""
    config = TrainConfig(
        run_dir=str(run_dir),
        steps=STEPS,
        warmup_steps=4,
        ema_decay=0.9,
        checkpoint_every=CHECKPOINT_EVERY,
        keep_checkpoints=1,
        log_every=1,
        background_checkpoints=background,
        progress=False,
        plots=False,
    )
    Trainer.start_or_resume(Velocity(), FlowMatching(), optimizer, LatentShards(data, batch_size=BATCH), config).fit()


if __name__ == "__main__":  # under torchrun
    run, shards = map(Path, sys.argv[1:])
    if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        watch(run, ELASTIC)
    with process_group():
        train(run, shards)
