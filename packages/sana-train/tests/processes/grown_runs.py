"""A grown run that goes on in one and in two processes, for a test to compare: python grown_runs.py FOLDER."""

import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from forked import together
from torch import nn

from sana_train import CAME8bit, FlowMatching, GrowthPlan, TrainConfig, Trainer
from sana_train.growth import grow_optimizer, grow_run

BATCH = 4


class Block(nn.Module):
    """A residual branch of a width that does not divide evenly, with one weight in 8-bit state."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(131, 131), nn.Linear(131, 131)

    def forward(self, x):
        return x + self.out(self.into(x).relu())

    def reset_parameters(self, generator):
        for parameter in self.parameters():
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) / 12)

    def zero_residuals(self):
        for parameter in self.out.parameters():
            parameter.data.zero_()


class Blocks(nn.Module):
    def __init__(self, depth: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.config = SimpleNamespace(num_layers=depth)
        self.first, self.last = nn.Linear(4, 131), nn.Linear(131, 4)
        self.blocks = nn.ModuleList(Block() for _ in range(depth))

    def forward(self, latents, timestep, caption, caption_mask):
        x = self.first(latents.flatten(2).mT) + timestep.view(-1, 1, 1) / 1000
        for block in self.blocks:
            x = block(x)
        return self.last(x).mT.reshape(latents.shape).clone()  # FSDP2 warns of views


def batches(step: int) -> dict[str, object]:
    generator = torch.Generator().manual_seed(step)
    return {
        "latents": torch.randn(BATCH, 4, 3, 3, generator=generator),
        "caption": torch.zeros(BATCH, 1, 1),
        "caption_mask": torch.ones(BATCH, 1),
        "key": [f"{step}-{slot}" for slot in range(BATCH)],
    }


def config(run_dir: Path, steps: int) -> TrainConfig:
    return TrainConfig(run_dir=str(run_dir), steps=steps, warmup_steps=2, log_every=1, progress=False, plots=False)


def optimizer(model: nn.Module) -> CAME8bit:
    return CAME8bit(model.parameters(), 1e-3)


def go_on(run_dir: Path) -> None:
    plan = GrowthPlan.load(run_dir / "growth.json")
    Trainer.resume(
        run_dir,
        Blocks(len(plan.sources)),
        FlowMatching(),
        lambda model: grow_optimizer(optimizer(model), model, plan, warmup_steps=4, frozen_steps=1),
        batches,
        config(run_dir, 7),
        allow_changes=True,
    ).fit()


def main(folder: Path) -> None:
    Trainer(Blocks(2), FlowMatching(), optimizer, batches, config(folder / "parent", 3)).fit()
    for name, processes in (("one", 1), ("two", 2)):
        grow_run(folder / "parent", folder / name, Blocks(2), 5, drop_last=0, init="interleaved", progress=False)
        if processes == 1:
            go_on(folder / name)
        else:
            together(processes, lambda rank, run_dir=folder / name: go_on(run_dir))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
