"""The weights of published networks that compare images: read from their files, and checked before they are used."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from sana_ae.checkpoint_reading import CheckpointFiles, read_weights


def read_network(path: Path, *, remedy: str) -> dict[str, Tensor]:
    """All tensors of a file: .safetensors, or any other with weights_only=True.

    Raises FileNotFoundError, which ends in `remedy`, and ValueError where the file is damaged or holds other things.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}: {remedy}")
    return read_weights(CheckpointFiles(weights=(path,), folder=path.parent), torch.device("cpu"))


def check_network(given: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """Raise ValueError where tensors are missing, unknown, of another shape than in `shapes`, or not finite."""
    wrong = [
        f"{name} {tuple(given[name].shape) if name in given else 'missing'} instead of {shape}"
        for name, shape in shapes.items()
        if name not in given or tuple(given[name].shape) != shape
    ]
    wrong += [f"{name} unknown" for name in given if name not in shapes]
    wrong = wrong or [f"{name} not finite" for name, tensor in given.items() if not tensor.isfinite().all()]
    if wrong:
        raise ValueError(
            f"{path} does not hold the weights that are needed: {'; '.join(wrong[:4])} ({len(wrong)} in all)"
        )
