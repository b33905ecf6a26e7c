"""The optimizer of a training run."""

from typing import Any

from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from sana.training.settings import AdamWSettings, CAME8bitSettings, OptimizerSettings
from sana_train import CAME, CAME8bit


def make_optimizer(model: nn.Module, settings: OptimizerSettings, *, seed: int) -> Optimizer:
    """The optimizer of the parameters that `model` has now, sharded or not."""
    if isinstance(settings, AdamWSettings):
        return AdamW(
            model.parameters(),
            lr=settings.lr,
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
        )
    options: dict[str, Any] = {
        "betas": settings.betas,
        "eps": settings.eps,
        "clip_threshold": settings.clip_threshold,
        "weight_decay": settings.weight_decay,
        "bias_correction": settings.bias_correction,
        "stochastic_rounding": settings.stochastic_rounding,
        "backend": settings.backend,
        "seed": seed,
        "joined": query_key_value(model) if settings.join_qkv else (),
    }
    if not isinstance(settings, CAME8bitSettings):
        return CAME(model.parameters(), settings.lr, **options)
    return CAME8bit(
        model.parameters(),
        settings.lr,
        layout=settings.layout,
        block_size=settings.block_size,
        min_8bit_size=settings.min_8bit_size,
        **options,
    )


def query_key_value(model: nn.Module) -> list[list[Tensor]]:
    """The weights that NVlabs holds as one matrix: q, k, v of each self-attention, k and v of each cross-attention."""
    groups = []
    for name, module in model.named_modules():
        if hasattr(module, "to_k"):
            members = (
                (module.to_k, module.to_v) if name.endswith("cross_attn") else (module.to_q, module.to_k, module.to_v)
            )
            groups.append([member.weight for member in members])
    return groups
