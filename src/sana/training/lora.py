"""[lora] of a run: its transformer is frozen, and an adapter beside it is what is trained, averaged and saved."""

from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from sana.training.settings import LoraSettings
from sana_dit import SanaTransformer, TrainableLora, add_lora
from sana_train import TrainConfig
from sana_train.growth import model_hash
from sana_train.preparation import SIZES


def make_lora(model: SanaTransformer, settings: LoraSettings, *, seed: int) -> TrainableLora:
    """A fresh adapter on the model, which it freezes; raises ValueError where no layer is named as targets say."""
    try:
        return add_lora(model, rank=settings.rank, alpha=settings.alpha, targets=settings.targets, seed=seed)
    except ValueError as error:
        raise ValueError(f"[lora] {error}") from error


def prepare_blocks(model: SanaTransformer, train: TrainConfig) -> None:
    """Recompute and compile the blocks of a frozen transformer, which the trainer, having the adapter, does not see."""
    for block in model.blocks:
        if train.activation_checkpointing:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        if train.compile:
            torch._dynamo.config.recompile_limit = max(SIZES, torch._dynamo.config.recompile_limit)
            block.compile(dynamic=False)


def lora_facts(settings: LoraSettings | None, model: SanaTransformer) -> dict[str, Any]:
    """What a resumed run must have again: the adapter's shape, and the weights, which its checkpoints do not hold."""
    return {} if settings is None else {"lora": asdict(settings), "frozen weights": model_hash(model)}
