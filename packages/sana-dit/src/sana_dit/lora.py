"""LoRA adapters (arXiv:2106.09685) in a transformer: loaded beside its weights, fused into them, and taken out."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike

import torch
from torch import nn

from sana_dit.lora_reading import find_lora, read_lora
from sana_dit.low_rank import (
    AdaptedLinear,
    Addition,
    LowRank,
    additions,
    fuse,
    set_additions,
    trained_adapter,
    unfuse,
)
from sana_dit.transformer import SanaTransformer
from sana_dit.weights import diffusers_name


@torch.no_grad()
def load_lora(
    model: SanaTransformer,
    repo_dir_or_file: str | PathLike[str],
    *,
    scale: float = 1.0,
    name: str | None = None,
    file: str | None = None,
    revision: str | None = None,
) -> str:
    """Adds an adapter, in the format of diffusers, PEFT or kohya, to a transformer; returns its name.

    The weights stay as they are: the adapter is computed beside them, also beside quantised ones, until `fuse_lora`
    adds it to them. Several adapters add up. One of the same name is replaced; so loading again with another scale
    changes the scale. `model.adapters` tells what is loaded. The adapter is no part of `state_dict` or of what
    `save_pretrained` writes, unless it is fused. Captions that were read before (`Conditioning`) have to be read anew;
    `guided_velocity` and `StepGraphs` see to it themselves.

    Args:
        model: The transformer.
        repo_dir_or_file: A .safetensors file, or a folder or Hub repository that holds one.
        scale: Strength, times the adapter's own alpha / rank.
        name: What to call it; None is the source itself, such as owner/name, with the file where one is named.
        file: Name of the file in the folder or repository; None is diffusers' or PEFT's usual one or, in a local
            folder, the only one.
        revision: Branch, tag or commit on the Hub.

    Raises:
        FileNotFoundError: There is no adapter.
        ValueError: It does not fit the transformer, is damaged, or is no plain LoRA, or one of its name is in
            training. The model is then as it was.
    """
    if not math.isfinite(scale):
        raise ValueError(f"scale is {scale}; it must be a finite number")
    name = name or "/".join([str(repo_dir_or_file), *([file] if file else [])])
    if name == trained_adapter(model):
        raise ValueError(
            f"the adapter {name!r} is in training: save_lora and unload_lora it first, or give another name"
        )
    layers = layers_by_name(model)
    read = read_lora(find_lora(repo_dir_or_file, file=file, revision=revision), layers)
    dtype = model.final.proj.weight.dtype
    added = {where: _placed(factors, scale, layers[where].weight.device, dtype) for where, factors in read.items()}
    with _unfused(model):
        for where, layer in layers.items():
            wanted: dict[str, Addition] = {other: a for other, a in additions(layer).items() if other != name}
            if where in added:
                wanted[name] = added[where]
            set_additions(layer, wanted)
    model.adapters = {other: s for other, s in model.adapters.items() if other != name} | {name: scale}
    return name


def fuse_lora(model: SanaTransformer) -> None:
    """Adds the loaded adapters to the weights, so that they cost nothing; `unfuse_lora` takes them out bit for bit.

    The weights change where they are, and copies of them wait in CPU memory. Adapters loaded or unloaded afterwards
    are fused or taken out at once.

    Raises:
        ValueError: No adapter is loaded, or weights are quantised.
    """
    if not model.adapters:
        raise ValueError("no adapter is loaded: call load_lora first")
    layers = _adapted(model)
    if not all(layer.weight.is_floating_point() for layer in layers):
        raise ValueError("adapters cannot be fused into quantised weights: use them unfused")
    for layer in layers:
        fuse(layer)
    model.adapters = dict(model.adapters)


def unfuse_lora(model: SanaTransformer) -> None:
    """Takes fused adapters out of the weights, bit for bit, and computes them beside the weights again.

    Does nothing if none is fused.
    """
    for layer in _adapted(model):
        unfuse(layer)
    model.adapters = dict(model.adapters)


def unload_lora(model: SanaTransformer, name: str | None = None) -> None:
    """Takes an adapter out, fused or not, or all of them; the weights are then what they were.

    What `add_lora` froze stays frozen: `model.requires_grad_(True)` has the weights trained again.

    Raises:
        ValueError: No adapter of that name is loaded.
    """
    if name is not None and name not in model.adapters:
        raise ValueError(f"no adapter {name!r} is loaded; there are {list(model.adapters)}")
    with _unfused(model):
        for layer in _adapted(model):
            kept = {other: factors for other, factors in additions(layer).items() if name not in (None, other)}
            set_additions(layer, kept)
    model.adapters = {other: scale for other, scale in model.adapters.items() if name not in (None, other)}


def layers_by_name(model: SanaTransformer) -> dict[str, nn.Linear]:
    """Returns the layers that can take an adapter, as diffusers calls them."""
    found = ((name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear))
    return {diffusers_name(f"{name}.weight", model.config).removesuffix(".weight"): module for name, module in found}


def _adapted(model: SanaTransformer) -> list[AdaptedLinear]:
    return [module for module in model.modules() if isinstance(module, AdaptedLinear)]


def _placed(factors: LowRank, scale: float, device: torch.device, dtype: torch.dtype) -> LowRank:
    placed = LowRank(factors.down.to(device, dtype), (scale * factors.up).to(device, dtype))
    if not all(factor.isfinite().all() for factor in placed):
        raise ValueError(f"the adapter's weights, times scale {scale}, leave the range of {dtype}: use torch.bfloat16")
    return placed


@contextmanager
def _unfused(model: SanaTransformer) -> Iterator[None]:
    """Lets adapters be changed; what is adapted afterwards is fused again if the model was."""
    fused = any(layer.original is not None for layer in _adapted(model))
    for layer in _adapted(model):
        unfuse(layer)
    try:
        yield
    finally:
        for layer in _adapted(model) if fused else []:
            fuse(layer)
