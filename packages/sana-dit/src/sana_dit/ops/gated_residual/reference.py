"""A residual behind a gate in plain PyTorch (adaLN, DiT section 3.2)."""

import torch
from torch import Tensor


def gated_residual(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """Returns x + gate * y for tokens x and y (B, N, D) and a gate (B, D) or (B, 1, D)."""
    return torch.addcmul(x, gate.reshape(x.shape[0], 1, x.shape[2]), y)
