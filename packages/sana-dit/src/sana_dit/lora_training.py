"""A LoRA in training: fresh factors beside frozen weights (arXiv:2106.09685), and their file when they have learned."""

import copy
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import save
from torch import Tensor, nn

from sana_dit.config import SanaConfig
from sana_dit.initialization import fill_uniform
from sana_dit.lora import layers_by_name
from sana_dit.low_rank import AdaptedLinear, TrainableLowRank, additions, set_additions, trained_adapter
from sana_dit.transformer import SanaTransformer
from sana_dit.weights import first_few

LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
"""The projections of both attentions, as diffusers calls them."""

FILE = "pytorch_lora_weights.safetensors"


class TrainableLora(nn.Module):
    """An adapter that is trained: its parameters and its state are its factors, and calling it calls the transformer.

    So it can stand for the transformer wherever a model is trained: the frozen weights are in no checkpoint, average
    or optimizer, and factors that FSDP shards are gathered around each call. Made by `add_lora`.

    A copy has factors of its own, to be averaged and saved; it cannot be called, as the transformer holds the others.

    Attributes:
        transformer: The transformer whose layers hold the factors; no part of this module, and shared by its copies.
    """

    __call__: Callable[..., Tensor]
    transformer: SanaTransformer

    def __init__(self, transformer: SanaTransformer, factors: Mapping[str, TrainableLowRank]):
        super().__init__()
        self.__dict__["transformer"] = transformer  # past nn.Module, which would make it a part of this one
        self._names = tuple(factors)
        self.factors = nn.ModuleDict({name.replace(".", "_"): one for name, one in factors.items()})

    def forward(self, *inputs: Any, **options: Any) -> Tensor:
        """Returns what the transformer with the adapter returns; see `SanaTransformer.forward`.

        Raises:
            ValueError: The transformer does not hold these factors: this is a copy, or they were unloaded.
        """
        held = {id(layer.trained) for layer in self.transformer.modules() if isinstance(layer, AdaptedLinear)}
        if not held.issuperset(map(id, self.factors.values())):
            raise ValueError(
                "the transformer does not hold these factors, as in a copy of an adapter or after unload_lora: call "
                "what add_lora returned, or save_pretrained these and load_lora them"
            )
        return self.transformer(*inputs, **options)

    def save_pretrained(self, folder: str | PathLike[str]) -> None:
        """Writes the adapter as `save_lora` does."""
        factors = dict(zip(self._names, self.factors.values(), strict=True))
        trained = {name: one for name, one in factors.items() if isinstance(one, TrainableLowRank)}
        _write(trained, Path(folder), self.transformer.config)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        memo[id(self.transformer)] = self.transformer
        twin = type(self).__new__(type(self))
        twin.__dict__ = copy.deepcopy(self.__dict__, memo)
        return twin


def add_lora(
    model: SanaTransformer,
    *,
    rank: int,
    alpha: float | None = None,
    targets: Sequence[str] = LORA_TARGETS,
    name: str = "default",
    seed: int = 0,
) -> TrainableLora:
    """Adds a fresh adapter to a transformer, to be trained: its factors are the only parameters with gradients.

    The weights are frozen and left as they are, also quantised ones and those in bf16; the factors are in fp32. They
    start as PEFT's do, A uniform within 1/sqrt(in) and B zero, so that the model computes what it did before. They are
    among `model.parameters()` and move with it, and are no part of its `state_dict()` or `save_pretrained`:
    `save_lora` writes them. Adapters that are loaded stay at work beside it, unchanged.

    Choose the model's dtype before: `model.to(torch.bfloat16)` afterwards rounds the factors too. Captions that were
    read before a step of the optimizer (`Conditioning`, `guided_velocity`) have to be read anew after it, as what was
    read is of the factors before.

    Args:
        model: The transformer.
        rank: Rows of A and columns of B.
        alpha: The product of the factors is scaled by alpha / rank; None is the rank.
        targets: The layers, by the ends of the names that diffusers gives them, such as "attn1.to_q" or "to_q", or by
            the names that files have, "transformer.transformer_blocks.0.attn1.to_q".
        name: What to call it, in `model.adapters` and for `save_lora` and `unload_lora`.
        seed: Names the first values of A, the same on every device.

    Returns:
        The adapter as a module of its own, which trainers and optimizers can take for the model.

    Raises:
        ValueError: No layer has such a name, the rank is no positive integer or alpha not positive, or the model has an
            adapter of that name, one in training, or fused ones. The model is then as it was.
    """
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ValueError(f"rank is {rank!r}; it must be an integer, at least 1")
    alpha = float(rank if alpha is None else alpha)
    if not (math.isfinite(alpha) and alpha > 0):
        raise ValueError(f"alpha is {alpha}; it must be positive and finite")
    _check_room(model, name)
    layers = _matching(layers_by_name(model), targets)
    generator = torch.Generator().manual_seed(seed)
    factors = {where: _fresh(layer, rank, alpha, generator) for where, layer in layers.items()}
    model.requires_grad_(False)
    for where, layer in layers.items():
        set_additions(layer, additions(layer) | {name: factors[where]})
    model.adapters = model.adapters | {name: 1.0}
    return TrainableLora(model, factors)


def save_lora(model: SanaTransformer, folder: str | PathLike[str], *, name: str = "default") -> None:
    """Writes an adapter that `add_lora` made into a folder, as diffusers' `SanaPipeline.save_lora_weights` does.

    The file, pytorch_lora_weights.safetensors, is loaded by `load_lora`, by diffusers' `load_lora_weights` and by
    what else reads PEFT's names. It appears whole, in place of an earlier one.

    Raises:
        ValueError: No adapter of that name is in training.
    """
    found = {where: additions(layer).get(name) for where, layer in layers_by_name(model).items()}
    factors = {where: one for where, one in found.items() if isinstance(one, TrainableLowRank)}
    if not factors:
        raise ValueError(f"no adapter {name!r} is in training; {list(model.adapters)} are loaded: call add_lora first")
    _write(factors, Path(folder), model.config)


def _check_room(model: SanaTransformer, name: str) -> None:
    adapted = [layer for layer in model.modules() if isinstance(layer, AdaptedLinear)]
    if name in model.adapters:
        raise ValueError(f"the model has an adapter {name!r}: call unload_lora first, or give another name")
    if any(layer.original is not None for layer in adapted):
        raise ValueError("adapters are fused into the weights: call unfuse_lora first")
    if (trained := trained_adapter(model)) is not None:
        raise ValueError(f"the adapter {trained!r} is in training: save_lora and unload_lora it first")


def _matching(layers: Mapping[str, nn.Linear], targets: Sequence[str]) -> dict[str, nn.Linear]:
    """The layers that targets name, as PEFT understands them: whole names, or what comes after a dot."""
    if isinstance(targets, str):
        raise ValueError(f"targets is the string {targets!r}; it must be a list of names: give [{targets!r}]")
    ends = [f".{target.removeprefix('transformer.')}" for target in targets]
    unknown = [
        target
        for target, end in zip(targets, ends, strict=True)
        if not any(f".{name}".endswith(end) for name in layers)
    ]
    if unknown or not ends:
        known = sorted({name.partition("transformer_blocks.")[2].partition(".")[2] or name for name in layers})
        problem = f"targets {first_few(unknown)} are no linear layers of the model" if unknown else "targets is empty"
        raise ValueError(f"{problem}; it has {', '.join(known)}")
    return {name: layer for name, layer in layers.items() if f".{name}".endswith(tuple(ends))}


def _fresh(layer: nn.Linear, rank: int, alpha: float, generator: torch.Generator) -> TrainableLowRank:
    device = layer.weight.device
    down = torch.empty(rank, layer.in_features, device=device)
    fill_uniform(down, 1 / math.sqrt(layer.in_features), generator)  # kaiming_uniform_(a=sqrt(5)), as PEFT has it
    return TrainableLowRank(down, torch.zeros(layer.out_features, rank, device=device), alpha=alpha)


def _write(factors: Mapping[str, TrainableLowRank], folder: Path, config: SanaConfig) -> None:
    tensors: dict[str, Tensor] = {}
    for name, one in factors.items():
        down, up = _as_peft(name, one, config)
        tensors[f"transformer.{name}.lora_A.weight"] = down.detach().cpu().contiguous()
        tensors[f"transformer.{name}.lora_B.weight"] = up.detach().cpu().contiguous()
    settings = json.dumps(_peft_settings(factors), indent=2, sort_keys=True)
    folder.mkdir(parents=True, exist_ok=True)
    staging = folder / f".{FILE}.{os.getpid()}"
    try:
        with staging.open("wb") as file:
            file.write(save(tensors, metadata={"format": "pt", "lora_adapter_metadata": settings}))
            file.flush()
            os.fsync(file.fileno())
        os.replace(staging, folder / FILE)
    finally:
        staging.unlink(missing_ok=True)


def _as_peft(name: str, factors: TrainableLowRank, config: SanaConfig) -> tuple[Tensor, Tensor]:
    """The factors in PEFT's shapes: those of a convolution are a convolution with its kernel, and a 1x1 one."""
    down, up = factors.down, factors.up
    if name != "patch_embed.proj" and not name.endswith((".conv_inverted", ".conv_point")):
        return down, up
    side = config.patch_size if name == "patch_embed.proj" else 1
    return down.reshape(len(down), -1, side, side), up[:, :, None, None]  # (R, C, p, p), (out, R, 1, 1)


def _peft_settings(factors: Mapping[str, TrainableLowRank]) -> dict[str, Any]:
    """What PEFT's `LoraConfig` has to know, under the names that diffusers gives it in a file."""
    first = next(iter(factors.values()))
    settings = {
        "peft_type": "LORA",
        "r": len(first.down),
        "lora_alpha": int(first.alpha) if first.alpha.is_integer() else first.alpha,
        "target_modules": list(factors),
        "lora_dropout": 0.0,
        "bias": "none",
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
    }
    return {f"transformer.{name}": value for name, value in settings.items()}
