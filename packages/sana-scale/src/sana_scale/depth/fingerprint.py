"""Hashes by which a plan knows the model it was made for and the data it was made with."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def model_hash(model: nn.Module) -> str:
    """The SHA-256 of a model's weights: names, shapes, dtypes and values of `state_dict()`."""
    return combined_hash(tensor_hashes(model))


def tensor_hashes(model: nn.Module) -> dict[str, str]:
    """The SHA-256 of each tensor of `state_dict()`; on the meta device of its shape and dtype alone."""
    tensors = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    return {name: _tensor_hash(tensor) for name, tensor in tensors.items()}


def combined_hash(hashes: Mapping[str, str]) -> str:
    """One SHA-256 of named hashes, whatever their order."""
    lines = "".join(f"{name} {hashes[name]}\n" for name in sorted(hashes))
    return hashlib.sha256(lines.encode()).hexdigest()


def calibration_hash(description: Any) -> str:
    """The SHA-256 of what a calibration was made with, given as anything JSON can hold; the order of keys is free."""
    try:
        text = json.dumps(description, sort_keys=True, ensure_ascii=False)
    except TypeError as error:
        raise TypeError(f"calibration must be what JSON can hold, such as a list of prompts: {error}") from error
    return hashlib.sha256(text.encode()).hexdigest()


def _tensor_hash(tensor: Tensor) -> str:
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
    if not tensor.is_meta:
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
