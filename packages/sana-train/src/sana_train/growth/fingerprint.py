"""Hashes by which a plan knows the model it was made for and the one it makes."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def model_hash(model: nn.Module) -> str:
    """The SHA-256 of a model's weights: names, shapes, dtypes and values of `state_dict()`."""
    return combined_hash(tensor_hashes(model))


def tensor_hashes(module: nn.Module, *, prefix: str = "") -> dict[str, str]:
    """The SHA-256 of each tensor of `state_dict()`; on the meta device of its shape and dtype alone."""
    tensors = module.state_dict(prefix=prefix)
    return {name: _tensor_hash(tensor) for name, tensor in tensors.items() if isinstance(tensor, Tensor)}


def combined_hash(hashes: Mapping[str, str]) -> str:
    """One SHA-256 of named hashes, whatever their order."""
    lines = "".join(f"{name} {hashes[name]}\n" for name in sorted(hashes))
    return hashlib.sha256(lines.encode()).hexdigest()


def _tensor_hash(tensor: Tensor) -> str:
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
    if not tensor.is_meta:
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
