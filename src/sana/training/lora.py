"""[lora] of a run: its transformer is frozen, and an adapter beside it is what is trained, averaged and saved."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from sana.training.recorded_settings import recorded_settings
from sana.training.settings import LoraSettings
from sana_dit import SanaTransformer, TrainableLora, add_lora
from sana_train import CheckpointError
from sana_train.growth import model_hash


def make_lora(model: SanaTransformer, settings: LoraSettings, *, seed: int) -> TrainableLora:
    """A fresh adapter on the model, which it freezes; raises ValueError where no layer is named as targets say."""
    try:
        return add_lora(model, rank=settings.rank, alpha=settings.alpha, targets=settings.targets, seed=seed)
    except ValueError as error:
        raise ValueError(f"[lora] {error}") from error


def lora_facts(settings: LoraSettings | None, model: SanaTransformer) -> dict[str, Any]:
    """What a resumed run must have again: the adapter's shape, and the weights, which its checkpoints do not hold."""
    if settings is None:
        return {}
    alpha = float(settings.rank if settings.alpha is None else settings.alpha)
    return {"lora": asdict(settings) | {"alpha": alpha}, "frozen weights": model_hash(model)}


def check_same_factors(settings: LoraSettings | None, run_dir: Path) -> None:
    """Raise CheckpointError where the run has trained other factors, or none: its checkpoints hold no others."""
    recorded = recorded_settings(run_dir)
    then = None if recorded is None else _trained(recorded.get("lora"))
    now = _trained(None if settings is None else asdict(settings))
    if then not in (None, now):
        raise CheckpointError(
            f"{run_dir} trains {then} and is now to train {now}, which its checkpoints do not hold: give the same "
            "[lora], or a new train.run_dir"
        )


def _trained(lora: dict[str, Any] | None) -> str:
    if lora is None:
        return "the whole model"
    return f"an adapter of rank {lora['rank']} in {', '.join(sorted(set(lora['targets'])))}"
