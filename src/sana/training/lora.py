"""[lora] of a run: its transformer is frozen, and an adapter beside it is what is trained, averaged and saved."""

from dataclasses import asdict
from typing import Any

from sana.training.settings import LoraSettings
from sana_dit import SanaTransformer, TrainableLora, add_lora
from sana_train.growth import model_hash


def make_lora(model: SanaTransformer, settings: LoraSettings, *, seed: int) -> TrainableLora:
    """A fresh adapter on the model, which it freezes; raises ValueError where no layer is named as targets say."""
    try:
        return add_lora(model, rank=settings.rank, alpha=settings.alpha, targets=settings.targets, seed=seed)
    except ValueError as error:
        raise ValueError(f"[lora] {error}") from error


def lora_facts(settings: LoraSettings | None, model: SanaTransformer) -> dict[str, Any]:
    """What a resumed run must have again: the adapter's shape, and the weights, which its checkpoints do not hold."""
    return {} if settings is None else {"lora": asdict(settings), "frozen weights": model_hash(model)}
