"""Low-rank updates of the language model (LoRA, Hu et al. 2021), through peft, and their sum with what they update."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from sana_judge.vila.model import VILAModel

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def add_low_rank(model: VILAModel, rank: int, *, alpha: int | None = None) -> None:
    """Give every linear layer of the language model an update of `rank`; those and the projector learn, no more.

    The update is scaled by alpha / rank, alpha being 2 * rank where it is None, and starts at zero.

    Raises:
        ImportError: peft is not installed.
        ValueError: rank is below 1.
    """
    if rank < 1:
        raise ValueError(f"rank is {rank}; it must be at least 1")
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError("low-rank updates need peft: pip install 'sana-judge[train]'") from error
    model.requires_grad_(False)
    config = LoraConfig(r=rank, lora_alpha=2 * rank if alpha is None else alpha, target_modules=list(TARGETS))
    inject_adapter_in_model(config, model.llm.model)
    model.mm_projector.requires_grad_(True)


def merged_weights(model: nn.Module) -> Mapping[str, Tensor]:
    """The state of a model as if it never had low-rank updates: each added to its weight, under the weight's name.

    The model stays as it is; one without updates gives its own state.
    """
    weights = model.state_dict()
    updates: dict[str, Any] = {n: module for n, module in model.named_modules() if hasattr(module, "get_delta_weight")}
    for name, layer in updates.items():
        weight = layer.base_layer.weight
        update = sum(layer.get_delta_weight(adapter) for adapter in layer.active_adapters)
        weights[f"{name}.base_layer.weight"] = (weight.float() + update).to(weight.dtype)
    inside = tuple(f"{name}.lora_" for name in updates)
    return {k.replace(".base_layer.", "."): v for k, v in weights.items() if not k.startswith(inside)}
