"""A small velocity model, its batches, and a run built from them."""

import os
from collections.abc import Callable
from pathlib import Path

os.environ.pop("HF_HUB_ENABLE_HF_TRANSFER", None)  # huggingface_hub warns of it when it is imported

import pytest
import torch
from torch import Tensor, nn

from sana_train import FlowMatching, TrainConfig, Trainer


class TinyVelocity(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.time = nn.Linear(1, 4)
        self.caption = nn.Linear(6, 4)

    def forward(self, latents: Tensor, timestep: Tensor, caption: Tensor, caption_mask: Tensor) -> Tensor:
        pooled = (caption * caption_mask[..., None]).sum(1)
        condition = self.time(timestep[:, None] / 1000) + self.caption(pooled)
        return self.conv(latents) + condition[:, :, None, None]


def batches(step: int) -> dict[str, object]:
    generator = torch.Generator().manual_seed(step)
    return {
        "latents": torch.randn(3, 4, 2, 2, generator=generator),
        "caption": torch.randn(3, 5, 6, generator=generator),
        "caption_mask": torch.ones(3, 5),
        "key": [f"{step}-{slot}" for slot in range(3)],
    }


@pytest.fixture
def tiny_model() -> TinyVelocity:
    return TinyVelocity()


@pytest.fixture
def parts() -> Callable[..., tuple]:
    """The arguments of a `Trainer` whose model starts from the same weights every time."""

    def build(config: TrainConfig, **changes: object) -> tuple:
        model = TinyVelocity()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        arguments = {"model": model, "objective": FlowMatching(), "optimizer": optimizer, "batches": batches}
        return (*(arguments | changes).values(), config)

    return build


@pytest.fixture
def make_trainer(tmp_path: Path, parts: Callable[..., tuple]) -> Callable[..., Trainer]:
    def build(*, model=None, objective=None, optimizer=None, batches=None, hooks=None, **changes: object) -> Trainer:
        settings = {"run_dir": str(tmp_path / "run"), "steps": 6, "log_every": 1, "progress": False, "plots": False}
        given = {"model": model, "objective": objective, "optimizer": optimizer, "batches": batches}
        given = {name: value for name, value in given.items() if value is not None}
        return Trainer(*parts(TrainConfig(**settings | changes), **given), **(hooks or {}))

    return build
