"""A velocity model of blocks that can be grown, and the parts of a run of it."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sana_train import FlowMatching, TrainConfig


class Block(nn.Module):
    """x + out(relu(into(norm(x)))), the smallest block with a residual branch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.into = nn.Linear(width, 2 * width)
        self.out = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(self.into(nn.functional.layer_norm(x, x.shape[-1:])).relu())

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)

    def zero_residuals(self) -> None:
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)


@dataclass(frozen=True, kw_only=True)
class Config:
    num_layers: int
    in_channels: int = 4
    sample_size: int = 2
    caption_channels: int = 6


class BlockVelocity(nn.Module):
    def __init__(self, depth: int) -> None:
        super().__init__()
        torch.manual_seed(depth)
        self.config = Config(num_layers=depth)
        self.caption = nn.Linear(6, 4)
        self.blocks = nn.ModuleList(Block(4) for _ in range(depth))

    def forward(self, latents: Tensor, timestep: Tensor, caption: Tensor, caption_mask: Tensor) -> Tensor:
        dtype = self.caption.weight.dtype
        condition = (
            self.caption((caption * caption_mask[..., None]).sum(1).to(dtype)) + timestep[:, None].to(dtype) / 1000
        )
        x = latents.to(dtype).flatten(2).mT + condition[:, None]  # (B, N, 4)
        for block in self.blocks:
            x = block(x)
        return x.mT.unflatten(2, latents.shape[2:])


@pytest.fixture
def make_model() -> Callable[[int], BlockVelocity]:
    return BlockVelocity


@pytest.fixture
def forgetful_model() -> BlockVelocity:
    """A model of three blocks that leave a bias in their branch when it is said to be zero."""
    model = BlockVelocity(3)
    for block in model.blocks:
        block.zero_residuals = lambda: None
    return model


@pytest.fixture
def train_config(tmp_path: Path) -> Callable[..., TrainConfig]:
    def build(**changes: object) -> TrainConfig:
        settings = {"run_dir": str(tmp_path / "run"), "steps": 3, "log_every": 1, "progress": False, "plots": False}
        return TrainConfig(**settings | changes)

    return build


@pytest.fixture
def run_parts() -> tuple:
    """An objective and the batches of a run."""

    def batches(step: int) -> dict[str, object]:
        generator = torch.Generator().manual_seed(step)
        return {
            "latents": torch.randn(3, 4, 2, 2, generator=generator),
            "caption": torch.randn(3, 5, 6, generator=generator),
            "caption_mask": torch.ones(3, 5),
            "key": [f"{step}-{slot}" for slot in range(3)],
        }

    return FlowMatching(), batches


@pytest.fixture
def take_step() -> Callable[..., None]:
    """Steps an optimizer with gradients of one for every parameter of a model."""

    def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        before = copy.deepcopy(dict(model.named_parameters()))
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        return {name: parameter.detach() - before[name] for name, parameter in model.named_parameters()}

    return step
